"""What a study leaves: a table, plots, a sheet of the paper's statements beside what was found, and one page."""

import base64
import csv
import io
import json
from dataclasses import dataclass

from distrib.studies.chart import Chart, chart_in_page
from distrib.tracking.page import page
from distrib.values import Value

WORDS = {True: "yes", False: "no", None: "cannot be told"}
"""Whether a statement of the paper was met."""


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
    """SVG files by name."""
    about: str
    """What was measured, on what, in which run: a line below the title of the page, as of every plot."""
    chart: Chart | None = None
    """What of the table the page draws to be looked at by the pointer."""

    def files(self, title: str) -> dict[str, bytes]:
        """The content of every file by its name: table.csv, table.json, sheet.md, report.html and the plots."""
        text = io.StringIO()
        table = csv.DictWriter(text, fieldnames=list(self.rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        return {
            "table.csv": text.getvalue().encode(),
            "table.json": json.dumps(self.rows, indent=2).encode(),
            "sheet.md": sheet(title, self.expectations).encode(),
            "report.html": page(
                "studies",
                title=title,
                about=self.about,
                expectations=self.expectations,
                words=WORDS,
                rows=self.rows,
                chart=None if self.chart is None else chart_in_page(self.rows, self.chart),
                plots={name: base64.b64encode(svg).decode() for name, svg in self.plots.items()},
            ),
            **self.plots,
        }


def sheet(title: str, expectations: list[Expectation]) -> str:
    """A table in Markdown: what the paper says, what was found, and whether they agree."""
    words = WORDS | {False: "**no**"}
    rows = [f"| {one.target} | {one.achieved} | {words[one.met]} |" for one in expectations]
    return "\n".join([f"# {title}", "", "| target | achieved | met |", "|---|---|---|", *rows, ""])
