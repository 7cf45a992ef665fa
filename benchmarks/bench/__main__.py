"""The benchmarks: one command, a Markdown table for each section, to stand in docs/results.md.

    make bench [ARGS="step ceiling --quick"]        python -m benchmarks.bench [SECTION ...] [--quick] [--rounds N]

Sections, in their order; all of them if none is named:
"""

import argparse
import signal
import sys
import time
from importlib import import_module

from benchmarks.bench.report import Options, machine
from distrib.processor import compute_with, usable_cpus

SECTIONS = {
    "step": "the training step against textbook PGD, torchattacks, foolbox and ART",
    "ceiling": "the step against the rate of the network's own convolutions",
    "overhead": "Ray Train, MLflow and checkpoints against the bare loop",
    "workers": "two workers against one",
    "loader": "the loader alone, and the share of training that waits for it",
    "startup": "where the time of make train goes, and what the imports cost",
    "evaluation": "AutoAttack by distrib's evaluation against the package itself",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the sections and prints their tables; the exit status is 1 if one of them failed."""
    listed = "\n".join(f"    {name:12}{what}" for name, what in SECTIONS.items())
    words = argparse.ArgumentParser(
        "make bench", description=f"{__doc__}\n{listed}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    words.add_argument("--quick", action="store_true", help="toy sizes: seconds, to see that everything works")
    words.add_argument("--rounds", type=int, help="how often each thing is measured")
    given = words.parse_args(arguments)
    unknown = [name for name in given.sections if name not in SECTIONS]
    if unknown:
        words.error(f"there is no section {unknown[0]!r}; choose from {', '.join(SECTIONS)}")
    options = Options(given.quick, given.rounds)
    print(f"{machine()}\n", flush=True)
    failed = False
    for name in given.sections or SECTIONS:
        began = time.perf_counter()
        print(f"## {name}: {SECTIONS[name]}\n", flush=True)
        try:
            for table in import_module(f"benchmarks.bench.{name}").measure(options):
                print(table.markdown(), flush=True)
        except Exception as error:  # one section that fails here (no FFCV, no room) must not cost the others
            failed = True
            print(f"{name} failed: {type(error).__name__}: {error}\n", flush=True)
        print(f"({name} took {time.perf_counter() - began:.0f} s)\n", flush=True)
    return int(failed)


def _terminated(number: int, frame: object) -> None:
    raise KeyboardInterrupt  # what a section has started ends with it


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminated)
    compute_with(usable_cpus())  # as a worker does: for the peers too, which take their turns in this process
    sys.exit(main())
