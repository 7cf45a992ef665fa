"""What a study leaves: a table, plots, and a sheet of the paper's statements beside what was found."""

import csv
import io
import json
from dataclasses import dataclass

from distrib.values import Value


class Expectation(Value):
    """One statement of the paper, and what was found here."""

    target: str
    """What the paper says, and where."""
    achieved: str
    """What was found, in figures."""
    met: bool | None
    """None where this study cannot tell."""


@dataclass(frozen=True)
class Findings:
    """The outcome of a study."""

    rows: list[dict]
    """A table: one dict a row, all with the same keys."""
    expectations: list[Expectation]
    plots: dict[str, bytes]
    """PNG files by name."""

    def files(self, title: str) -> dict[str, bytes]:
        """The content of every file by its name: table.csv, table.json, sheet.md and the plots."""
        text = io.StringIO()
        table = csv.DictWriter(text, fieldnames=list(self.rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        return {
            "table.csv": text.getvalue().encode(),
            "table.json": json.dumps(self.rows, indent=2).encode(),
            "sheet.md": sheet(title, self.expectations).encode(),
            **self.plots,
        }


def sheet(title: str, expectations: list[Expectation]) -> str:
    """A table in Markdown: what the paper says, what was found, and whether they agree."""
    word = {True: "yes", False: "**no**", None: "cannot be told"}
    rows = [f"| {one.target} | {one.achieved} | {word[one.met]} |" for one in expectations]
    return "\n".join([f"# {title}", "", "| target | achieved | met |", "|---|---|---|", *rows, ""])
