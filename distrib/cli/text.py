"""Results as text for a person."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from distrib.config.brought import summary_of
from distrib.values import counted, shown_radius

if TYPE_CHECKING:  # it takes a second to import
    from distrib.config.fields import JobField, Section, Variant


def table(result: dict, options: str = "") -> str:
    """The result of a job in a few lines; ``options`` belong to the command among them that is to be copied."""
    if result["kind"] == "prepare":
        splits = ", ".join(f"{name} {split['count']}" for name, split in result["splits"].items())
        return f"prepared: {result['folder']} ({splits})"
    if result["kind"] == "study":
        return _study(result)
    if result["kind"] == "tune":
        return _search(result, options)
    natural = result.get("natural")
    grid = Table(
        box=box.SIMPLE,
        title=f"{result['norm']} epsilon {shown_radius(result['epsilon'])}, test split",
        title_justify="left",
    )
    grid.add_column("attack")
    grid.add_column("robust model" if natural else "accuracy", justify="right")
    if natural:
        grid.add_column("natural model", justify="right")
    grid.add_column("images", justify="right")
    rows = [("clean", "clean_accuracy", result["n_clean"])]
    for name, key, n in rows:
        grid.add_row(name, *(f"{one[key]:.2%}" for one in (result, natural) if one), str(n))
    both = [one for one in (result, natural) if one]
    for name in dict.fromkeys(name for one in both for name in one["attacks"]):  # one may have met further attacks
        shares = [f"{one['attacks'][name]:.2%}" if name in one["attacks"] else "-" for one in both]
        its = next(one for one in both if name in one["attacks"])
        after = " (on what still stood)" if name in its["cumulative"] else ""
        grid.add_row(name + after, *shares, str(its["attacks_n"][name]))
    grid.add_section()
    worst = [f"{one['robust_accuracy']:.2%}" for one in both]
    grid.add_row("worst case", *worst, str(result["n"]))
    low, high = result["interval"]
    lines = [_rendered(grid).rstrip(), "", f"  worst case, 95 % interval: {low:.2%} to {high:.2%}"]
    lines[-1] += f"; tier {result['tier']}"
    lines += [
        f"  {'BLOCKING FLAG' if flag['blocking'] else 'flag'} {flag['name']}: {flag['detail']}"
        for flag in result["flags"]
    ]
    if any(flag["blocking"] for flag in result["flags"]):
        lines.append("  do not use this figure")
    if result["kind"] == "train":
        lines.append(
            f"  {counted(result['num_workers'], 'worker')}, {result['seconds']:.0f} s in all, training "
            f"{result['train_seconds']:.0f} s at {result['images_per_second']:.0f} images/s"
        )
        name = result["model"].removeprefix("models:/").split("/")[0]
        lines += [f"  {result['model']}: {result['champion']}"]
        lines += [f"  robustness card: {result['card']}", "", f"  distrib pull {result['model']} {name}-model{options}"]
    else:
        lines += [f"  {result['model']}: {result['champion']}"] if "champion" in result else []
        lines.append(f"  robustness card: {result['card']}")
    return "\n".join(lines)


def _search(result: dict, options: str) -> str:
    best, score = result["best"], result["score"]
    lines = [
        f"search {result['name']}: {result['trials']} trials, {result['finished']} finished, {result['stopped']} "
        f"stopped early, {result['failed']} failed; {result['cost_hours']:.2f} core- or GPU-hours, "
        f"{result['seconds']:.0f} s",
        "",
        f"  best: trial {best['number']}, validation robust {best['robust_accuracy']:.2%} (clean "
        f"{best['clean_accuracy']:.2%}) by {score['attack']} at {score['norm']} epsilon "
        f"{shown_radius(score['epsilon'])}",
        *(f"    {path} = {value}" for path, value in best["settings"].items()),
        *(
            [f"  no trial kept a clean accuracy of {score['min_clean_accuracy']:.2%}"]
            if best["clean_accuracy"] < score.get("min_clean_accuracy", 0)
            else []
        ),
        f"  report.html, tables, plots, best.yaml: {result['folder']}",
    ]
    return "\n".join(lines) + ("\n\n" + table(result["winner"], options) if result["winner"] else "")


def _study(result: dict) -> str:
    word = {True: "as the paper says", False: "NOT as the paper says", None: "cannot be told"}
    lines = [f"{result['study']} study, {result['rows']} rows, {result['seconds']:.0f} s:", ""]
    for one in result["expectations"]:
        lines += [f"  {one['target']}", f"      {word[one['met']]}: {one['achieved']}"]
    return "\n".join([*lines, "", f"  report.html, table, plots and sheet: {result['folder']}"])


def comparison(result: dict) -> str:
    """Two versions on the same images, in a few lines."""
    grid = Table(box=box.SIMPLE)
    for heading in ("", result["a"], result["b"], "only first", "only second", "difference (95 %)", "p (McNemar)"):
        grid.add_column(heading, justify="right" if heading else "left")
    for name, one in (("clean", result["clean"]), ("worst case", result["robust"])):
        low, high = one["interval"]
        difference = f"{100 * one['difference']:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
        grid.add_row(
            name, f"{one['a']:.2%}", f"{one['b']:.2%}", str(one["only_a"]), str(one["only_b"]), difference,
            f"{one['p']:.3g}",
        )  # fmt: skip
    terms = result["terms"]
    lines = [_rendered(grid).rstrip(), ""]
    threat = f"{terms['norm']} epsilon {shown_radius(float(terms['epsilon']))}"
    lines.append(f"  {threat}, {result['robust']['n']} images, {terms['attacks']}")
    for key in ("a", "b"):
        if result[f"flags_{key}"]:
            lines.append(f"  flags of {result[key]}: {', '.join(result[f'flags_{key}'])}")
    robust = result["robust"]
    if robust["p"] > 0.05:
        lines.append("  the two do not differ in robustness, as far as these images can tell")
    else:
        better = "first" if robust["difference"] > 0 else "second"
        lines.append(f"  the {better} is more robust (p {robust['p']:.3g})")
    return "\n".join(lines)


def decisions(rows: list[dict], name: str) -> str:
    """Every decision about champion, oldest first."""
    if not rows:
        return f"{name}: no decision about champion is on record"
    grid = Table(box=box.SIMPLE)
    for heading in ("time", "version", "decision", "tier", "robust", "reason"):
        grid.add_column(heading, justify="right" if heading == "robust" else "left")
    for row in rows:
        grid.add_row(
            row["time"][:19],
            row["version"],
            row["decision"],
            row["tier"],
            f"{row['robust_accuracy']:.2%}",
            row["reason"],
        )
    return _rendered(grid).rstrip()


def submissions(attempts: list) -> str:
    """Submissions to a cluster (:class:`distrib.cluster.submit.Attempt`), oldest first."""
    if not attempts:
        return "nothing was submitted there by distrib"
    grid = Table(box=box.SIMPLE)
    for heading in ("run", "submission", "status", "started", "minutes", "exit"):
        grid.add_column(heading, justify="right" if heading in ("minutes", "exit") else "left")
    for one in attempts:
        minutes = ((one.ended or time.time()) - one.started) / 60
        started = datetime.fromtimestamp(one.started).strftime("%Y-%m-%d %H:%M:%S")
        status = "" if one.exit_status is None else str(one.exit_status)
        grid.add_row(one.name, one.id, one.status, started, f"{minutes:.1f}", status)
    return _rendered(grid).rstrip()


NARROWED = ("parameters", "network", "data", "made (UTC)", "tier", "flags", "n")
"""Columns of the models that a narrow terminal goes without, the first ones first."""


def models_table(rows: list[dict], uri: str, name: str | None = None, width: int | None = None) -> str:
    """The registered versions as a table; in a terminal of that ``width`` without the columns that do not fit."""
    if not rows:
        return f"no model {name} in {uri}" if name else f"no models in {uri}; distrib run jobs/digits.yaml makes one"
    cells = [_model_cells(row) for row in rows]
    left_out: list[str] = []
    while True:
        grid = Table(box=box.SIMPLE)
        for heading in (one for one in cells[0] if one not in left_out):
            right = heading in ("clean", "robust", "n", "parameters")
            grid.add_column(heading, justify="right" if right else "left")
        for row in cells:
            grid.add_row(*(text for heading, text in row.items() if heading not in left_out))
        text = _rendered(grid).rstrip()
        if width is None or max(map(len, text.splitlines())) <= width or len(left_out) == len(NARROWED):
            told = f"\n  (a wider terminal, or --json, also shows {', '.join(left_out)})" if left_out else ""
            return text + told
        left_out.append(NARROWED[len(left_out)])


def _model_cells(row: dict) -> dict[str, str]:
    """What the table says of a version, by the columns' headings."""
    known = row["robust_accuracy"] is not None
    return {
        "model": row["model"].removeprefix("models:/"),
        "aliases": ", ".join(row["aliases"]),
        "clean": f"{row['clean_accuracy']:.2%}" if known else "?",
        "robust": f"{row['robust_accuracy']:.2%}" if known else "?",
        "threat": f"{row['norm']} {shown_radius(row['epsilon'])}" if known else "?",
        "tier": row["tier"] or "?",
        "n": str(row["n"] or "?"),
        "flags": row["flags"] or "?",
        "data": row["data"] or "?",
        "network": row["arch"] or "?",
        "parameters": f"{row['parameters']:,}" if row["parameters"] else "?",
        "made (UTC)": row["created"],
    }


def print_page(page: str) -> None:
    """Prints Markdown: set for a terminal, else as it is."""
    if sys.stdout.isatty():
        Console().print(Markdown(page))
    else:
        print(page.rstrip())


def runs_table(rows: list[dict], storage: Path) -> str:
    """The runs of a storage as a table."""
    if not rows:
        return f"no runs in {storage}; distrib run digits makes one"
    grid = Table(box=box.SIMPLE)
    for heading in ("run", "kind", "state", "done", "clean", "robust", "on", "ends in", "changed"):
        grid.add_column(heading, justify="right" if heading in ("done", "clean", "robust", "ends in") else "left")
    for row in rows:
        shares = [f"{row[key]:.2%}" if row[key] is not None else "" for key in ("clean_accuracy", "robust_accuracy")]
        eta = row["eta_seconds"]
        grid.add_row(
            row["name"], row["kind"], row["state"], f"{row['done']} of {row['of']}" if row["of"] else row["done"],
            *shares, row["on"], "" if eta is None else f"about {eta // 60 + 1} min", row["changed"],
        )  # fmt: skip
    return _rendered(grid).rstrip()


def jobs_table(jobs: Mapping[str, Path]) -> str:
    """The job files that distrib brings, and what each says of itself."""
    grid = Table(box=box.SIMPLE)
    for heading in ("job", "what it does"):
        grid.add_column(heading)
    for name, path in jobs.items():
        grid.add_row(name, textwrap.shorten(summary_of(path), 110, placeholder=" ..."))
    return (
        _rendered(grid).rstrip() + "\n\n  distrib init NAME [FILE] writes one here; distrib run NAME runs it as it is"
    )


FIELDS_PAGE = """\
# Every field of a job

Written by `make docs` (`distrib fields --markdown`) from the code. A job file is YAML: a mapping that begins with its
kind. Unknown keys and wrong types are refused.

    distrib fields optim.schedule                                            # a part of this page
    distrib run jobs/digits.yaml --dry-run                                   # a job with all of its defaults
    distrib run jobs/digits.yaml --set optim.epochs=15 --set name=short      # fields for one run; it needs its own name

- **A mapping by source** is one whose key `source` chooses one of the tables of that part; likewise by another key.
- **A field without a default** must be given. A default of `{}` is a mapping with every field at its own default.
- **null** is how YAML writes "none".

The kinds of job, and those of their fields that have fields of their own:

"""


def fields_text(sections: Sequence[Section]) -> str:
    """Fields of a job for a person at a terminal: the whole path of each, its type and default, and its meaning."""
    return "\n\n".join("\n".join(_section_lines(section)) for section in sections)


def _section_lines(section: Section) -> Iterator[str]:
    yield section.path or "a job"
    for variant in section.variants:
        indent = "    " if variant.tag else "  "
        if variant.tag:
            yield f"  {variant.tag}"
        yield from _wrapped(variant.meaning, indent)
        for field in variant.fields:
            path = f"{section.path}.{field.name}" if section.path else field.name
            yield f"{indent}{path}: {field.type}{f'; default {field.default}' if field.default else ''}"
            yield from _wrapped(field.meaning, indent + "    ")


def _wrapped(text: str, indent: str) -> list[str]:
    plain = text.replace("`", "")
    return textwrap.wrap(plain, 110, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def fields_markdown(sections: Sequence[Section]) -> str:
    """The page docs/jobs.md: its contents, a heading for each path, a table for each mapping that may stand there."""
    parts = [FIELDS_PAGE + "\n".join(_contents(sections)) + "\n"]
    for section in sections:
        if section.path:
            parts.append(f"## {section.path}\n")
        parts += [_variant_table(variant, "##" if not section.path else "###") for variant in section.variants]
    return "\n".join(parts)


def _contents(sections: Sequence[Section]) -> Iterator[str]:
    """A line for each kind of job, with links to it and to the parts that its fields refer to."""
    told = {section.path for section in sections}
    for kind in (variant for section in sections if not section.path for variant in section.variants):
        parts = [field.name for field in kind.fields if field.name in told and "mapping" in field.type]
        yield f"- [`{kind.tag}`](#{kind.tag.replace(': ', '-')}): {', '.join(f'[{part}](#{part})' for part in parts)}"


def _variant_table(variant: Variant, heading: str) -> str:
    lines = [f"{heading} `{variant.tag}`\n"] if variant.tag else []
    lines += [f"{variant.meaning}\n"]
    if variant.fields:
        lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
        lines += [_table_row(field) for field in variant.fields]
        lines.append("")
    return "\n".join(lines)


def _table_row(field: JobField) -> str:
    cells = [f"`{field.name}`", field.type, f"`{field.default}`" if field.default else "", field.meaning]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _rendered(grid: Table) -> str:
    # plain text whatever the terminal: it may be copied, piped or compared
    console = Console(width=160, color_system=None, force_terminal=False, highlight=False, _environ={})
    with console.capture() as captured:
        console.print(grid)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
