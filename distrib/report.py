"""Results as text for a person."""

from rich import box
from rich.console import Console
from rich.table import Table


def table(result: dict) -> str:
    """The result of a job in a few lines."""
    if result["kind"] == "prepare":
        splits = ", ".join(f"{name} {split['count']}" for name, split in result["splits"].items())
        return f"prepared: {result['folder']} ({splits})"
    natural = result.get("natural")
    grid = Table(
        box=box.SIMPLE, title=f"{result['norm']} epsilon {result['epsilon']:.4g}, test split", title_justify="left"
    )
    grid.add_column("attack")
    grid.add_column("robust model" if natural else "accuracy", justify="right")
    if natural:
        grid.add_column("natural model", justify="right")
    grid.add_column("images", justify="right")
    rows = [("clean", "clean_accuracy", result["n_clean"])]
    for name, key, n in rows:
        grid.add_row(name, *(f"{one[key]:.2%}" for one in (result, natural) if one), str(n))
    for name, accuracy in result["attacks"].items():
        other = [f"{natural['attacks'][name]:.2%}"] if natural else []
        grid.add_row(name, f"{accuracy:.2%}", *other, str(result["attacks_n"][name]))
    grid.add_section()
    worst = [f"{one['robust_accuracy']:.2%}" for one in (result, natural) if one]
    grid.add_row("worst case", *worst, str(result["n"]))
    low, high = result["interval"]
    lines = [_rendered(grid).rstrip(), "", f"  worst case, 95 % interval: {low:.2%} to {high:.2%}"]
    lines += [f"  FLAG {flag['name']}: {flag['detail']}" for flag in result["flags"]]
    if result["kind"] == "train":
        lines.append(
            f"  {result['num_workers']} workers, {result['seconds']:.0f} s in all, training "
            f"{result['train_seconds']:.0f} s at {result['images_per_second']:.0f} images/s"
        )
        name = result["model"].removeprefix("models:/").split("/")[0]
        lines += [f"  {result['model']}: {result['champion']}", "", f"  distrib pull {result['model']} {name}-model"]
    return "\n".join(lines)


def models_table(rows: list[dict], uri: str) -> str:
    """The registered versions as a table."""
    if not rows:
        return f"no models in {uri}; distrib run jobs/digits.yaml makes one"
    grid = Table(box=box.SIMPLE)
    for heading in ("model", "aliases", "clean", "robust", "threat", "attacks", "n", "flags"):
        grid.add_column(heading, justify="right" if heading in ("clean", "robust", "n") else "left")
    for row in rows:
        known = row["robust_accuracy"] is not None
        grid.add_row(
            row["model"], ", ".join(row["aliases"]), f"{row['clean_accuracy']:.2%}" if known else "?",
            f"{row['robust_accuracy']:.2%}" if known else "?", f"{row['norm']} {row['epsilon']:.4g}" if known else "?",
            ", ".join(row["attacks"]), str(row["n"] or "?"), row["flags"] or "?",
        )  # fmt: skip
    return _rendered(grid).rstrip()


def _rendered(grid: Table) -> str:
    # plain text whatever the terminal: it may be copied, piped or compared
    console = Console(width=160, color_system=None, force_terminal=False, highlight=False, _environ={})
    with console.capture() as captured:
        console.print(grid)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
