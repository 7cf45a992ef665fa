"""A whole step of adversarial training (attack and update): distrib's against other libraries', in one process.

All start from the same weights and see the same batch; each takes num_steps + 1 forward and backward passes. They take
turns, and every ratio is of two times of the same round. The fastest peer is the one with the smallest median.
"""

import statistics

from benchmarks.bench import peers
from benchmarks.bench.cases import CASES, TOY, Case, precisions, take_step
from benchmarks.bench.report import Options, Table, spread
from benchmarks.bench.rounds import Work, alternate
from distrib.precision import Format


def measure(options: Options) -> list[Table]:
    """A table for each network: images a second, and how many times as fast as the fastest peer."""
    return [_table(case, options.rounds or case.rounds) for case in (TOY if options.quick else CASES)]


def _table(case: Case, rounds: int) -> Table:
    works: dict[str, Work] = {name: peers.step_of(name, case) for name in peers.installed()}
    theirs = list(works)
    works |= {name: _own(case, precision) for name, precision in precisions().items()}
    found = alternate(works, rounds)
    fastest = min(theirs, key=lambda name: statistics.median(found[name]))
    rows = []
    for name, seconds in found.items():
        ratios = [other / own for other, own in zip(found[fastest], seconds, strict=True)]
        rate, best = (case.batch_size / one for one in (statistics.median(seconds), min(seconds)))
        mark = "the fastest peer" if name == fastest else spread(ratios)
        rows.append((name, f"{rate:,.1f}", f"{best:,.1f}", mark))
    how = f"{rounds} rounds; times the fastest peer: the median of the rounds (smallest to largest). {peers.missing()}"
    return Table(case.title, how.strip(), ("step", "images/s, median", "best", "times the fastest peer"), rows)


def _own(case: Case, precision: Format) -> Work:
    state, batch, objective = case.state(precision), case.batch(), case.objective()
    return lambda: take_step(state, batch, objective)
