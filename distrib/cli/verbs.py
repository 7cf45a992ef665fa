"""What each verb of the command does on this machine: a few calls, and what is printed of them.

Every verb imports what it needs where it needs it: help and errors of usage are quick.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from distrib.cli.parser import Options
from distrib.cli.remote import carry_out_remote

if TYPE_CHECKING:  # it takes a second to import
    from distrib.config.job import AnyJob


def carry_out(options: Options) -> int:
    """Does what was asked for; the exit status. Raises :class:`DistribError`."""
    match options.verb:
        case "run":
            return _run(options)
        case "evaluate":
            from distrib.cli.asked import evaluation_of

            return _carried(evaluation_of(options), options)
        case "init":
            return _init(options)
        case "fields":
            return _fields(options)
        case "schema":
            return _schema()
        case "runs":
            return _runs(options)
        case "submit" | "jobs" | "logs" | "stop":
            return carry_out_remote(options)
        case "doctor":
            return _doctor(options)
        case "models":
            return _models(options)
        case "show":
            return _show(options)
        case "pull":
            return _pull(options)
        case "push":
            return _push(options)
        case "compare":
            return _compare(options)
        case _:
            return _export(options)


def _run(options: Options) -> int:
    from distrib.config.file import read

    return _carried(read(options.job, options.overrides, options.removals), options)


def _carried(job: AnyJob, options: Options) -> int:
    """Carries a job out, or plans it; the exit status."""
    if options.dry_run:
        from distrib.cli.dry_run import plan

        for part in plan(job):
            print(part, end="", flush=True)
        return 0
    from distrib.cli.dispatch import run
    from distrib.cli.text import table
    from distrib.tracking.display import Display

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stopping)
    with Display() as display:
        result = run(job, display)
    if options.json:
        print(json.dumps(result))
    else:
        uri = None if job.kind == "prepare" else job.tracking.uri
        print(table(result, f" --tracking-uri {shlex.quote(uri)}" if uri else ""))
    return 0


def _stopping(number: int, frame: object) -> None:
    """Says so at once: what was started takes some seconds to end."""
    os.write(2, b"\ndistrib: stopping ...\n")  # print may be what was interrupted
    raise KeyboardInterrupt


def _init(options: Options) -> int:
    from distrib.cli.text import jobs_table
    from distrib.config.brought import brought, copy_of

    if options.name is None:
        print(jobs_table(brought()))
        return 0
    file = options.file or Path(f"{options.name}.yaml")
    copy_of(options.name, file)
    print(f"{file} is written; change it, and: distrib run {file}")
    return 0


def _schema() -> int:
    from distrib.config.job import JOB

    print(json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **JOB.json_schema()}, indent=1))
    return 0


def _runs(options: Options) -> int:
    from distrib.cli.text import runs_table
    from distrib.commands.runs import list_runs

    rows = list_runs(options.storage)
    print(json.dumps(rows) if options.json else runs_table(rows, options.storage))
    return 0


def _fields(options: Options) -> int:
    from distrib.cli.text import fields_markdown, fields_text
    from distrib.config.fields import sections

    found = sections(options.path)
    print(fields_markdown(found).rstrip() if options.markdown else fields_text(found))
    return 0


def _doctor(options: Options) -> int:
    from distrib.cli.doctor import examine, report

    checks = examine(options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI"), options.storage)
    print(report(checks))
    return 0 if all(check.ok for check in checks) else 1


def _models(options: Options) -> int:
    from distrib.cli.text import decisions, models_table
    from distrib.registry import listing
    from distrib.tracking import client

    uri = client.address(options.tracking_uri)
    client.must_exist(uri)
    if options.history:
        from distrib.registry import champion

        found = champion.decision_history(options.history, uri)
        print(json.dumps(found) if options.json else decisions(found, options.history))
        return 0
    rows = listing.ordered(listing.list_versions(uri, options.name), options.sort)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(json.dumps(rows) if options.json else models_table(rows, uri, options.name, width))
    return 0


def _show(options: Options) -> int:
    from distrib.cli.asked import as_address
    from distrib.cli.text import print_page
    from distrib.registry import versions
    from distrib.registry.listing import find
    from distrib.tracking import client

    uri = client.address(options.tracking_uri)
    client.must_exist(uri)
    address = as_address(options.address)
    card, page = versions.fetch_page(address, uri, options.tier)
    _, found = find(address, uri)
    if options.json:
        print(json.dumps(card))
    else:
        print_page(page.replace(f"models:/{found.name}/VERSION", f"models:/{found.name}/{found.version}"))
    return 0


def _pull(options: Options) -> int:
    from distrib.cli.asked import as_address
    from distrib.registry import versions
    from distrib.tracking import client

    uri = client.address(options.tracking_uri)
    client.must_exist(uri)
    versions.pull(as_address(options.address), options.folder, uri)
    print(f"{options.address} is in {options.folder}: {_names(options.folder)}")
    if (options.folder / "example.py").exists():
        print(f"try it: python {options.folder / 'example.py'}")
    return 0


def _push(options: Options) -> int:
    from distrib.errors import RegistryError
    from distrib.registry.push import push
    from distrib.tracking import client

    uri = client.address(options.to)
    try:
        found = push(options.folder, options.name, uri, options.experiment)
    except RegistryError as error:  # which names the fields of a job
        told = str(error).replace("tracking.uri", "--to").replace("tracking.experiment", "--experiment")
        raise RegistryError(told) from None
    name = found.address.removeprefix("models:/")
    how = f"{options.folder} is registered" if found.new else "nothing to push: these weights are there already"
    print(f"{how}: {found.address} in {uri}")
    there = f" --tracking-uri {shlex.quote(uri)}" if options.to else ""
    print(f"{found.champion}{f' (distrib evaluate {name}{there})' if found.new else ''}")
    return 0


def _compare(options: Options) -> int:
    from distrib.cli.asked import as_address
    from distrib.cli.text import comparison
    from distrib.registry.compare import compare
    from distrib.tracking import client

    uri = client.address(options.tracking_uri)
    client.must_exist(uri)
    result = compare(as_address(options.a), as_address(options.b), uri, options.tier)
    print(json.dumps(result) if options.json else comparison(result))
    return 0


def _export(options: Options) -> int:
    from distrib.commands.export import export
    from distrib.commands.robustbench import robustbench
    from distrib.tracking.display import Display

    with Display() as display:
        if options.robustbench:
            claim = robustbench(options.run, options.folder, display)
            told = f"{claim['architecture']}, clean {claim['clean_acc']} %, AutoAttack {claim['autoattack_acc']} %"
        else:
            told = f"{export(options.run, options.folder, display)['n']} images"
    print(f"{told} in {options.folder}: {_names(options.folder)}")
    return 0


def _names(folder: Path) -> str:
    return ", ".join(sorted(path.name for path in folder.iterdir()))
