"""What the parts of a run find: printed at once, and kept in ``results.json`` and ``results.md``, rewritten each time.

The file is the only memory: each part runs in a process of its own, reads it and adds to it.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrib.files import write_bytes


@dataclass
class Report:
    """One part's view of the results of the whole run."""

    folder: Path
    part: str
    began: float
    """When the run began, by ``time.monotonic``."""

    def __post_init__(self):
        path = self.folder / "results.json"
        self.content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"facts": {}, "parts": {}}
        self.own = self.content["parts"].setdefault(self.part, {"blocks": []})

    def say(self, text: str) -> None:
        """One line, with the time."""
        self._print(text)
        self._add(text)

    def row(self, title: str, **cells: Any) -> None:
        """One row of the table ``title`` of this part; its columns are named by the cells."""
        self._print(
            f"{title}: " + ", ".join(f"{name.replace('_', ' ')} {_cell(value)}" for name, value in cells.items())
        )
        tables = (block for block in self.own["blocks"] if isinstance(block, dict) and block["title"] == title)
        table = next(tables, None)
        if table is None:
            table = {"title": title, "rows": []}
            self.own["blocks"].append(table)
        table["rows"].append(cells)
        self._save()

    def text(self, title: str, text: str) -> None:
        """A block of text, as it is."""
        self._print(f"{title}\n{text}")
        self._add({"title": title, "text": text})

    def fact(self, name: str, value: Any) -> None:
        """A figure that other parts may ask for."""
        self.content["facts"][name] = value
        self._print(f"{name.replace('_', ' ')}: {_cell(value)}")
        self._save()

    def known(self, name: str) -> Any:
        """What an earlier part found; None if it did not."""
        return self.content["facts"].get(name)

    def error(self, text: str) -> None:
        """Why this part did not come to its end."""
        self.own["error"] = text
        self._print(f"ERROR {text}")
        self._save()

    def end(self) -> None:
        """Notes how long the part took."""
        self.own["seconds"] = round(time.monotonic() - self.began - self.own.get("start", 0.0), 1)
        self._save()

    def start(self) -> None:
        """Notes when the part began."""
        self.own["start"] = round(time.monotonic() - self.began, 1)
        self._save()

    @property
    def failed(self) -> list[str]:
        """The parts with an error."""
        return [name for name, part in self.content["parts"].items() if "error" in part]

    def _print(self, text: str) -> None:
        print(f"[{time.monotonic() - self.began:6.1f} s] {self.part}: {text}", flush=True)

    def _add(self, block: Any) -> None:
        self.own["blocks"].append(block)
        self._save()

    def _save(self) -> None:
        write_bytes(self.folder / "results.json", json.dumps(self.content, indent=1).encode())
        write_bytes(self.folder / "results.md", self.markdown().encode())

    def markdown(self) -> str:
        """Everything so far."""
        lines = ["# distrib on a GPU", ""]
        lines += [f"- {name.replace('_', ' ')}: {_cell(value)}" for name, value in self.content["facts"].items()]
        for name, part in self.content["parts"].items():
            lines += ["", f"## {name}" + (f" ({part['seconds']:g} s)" if "seconds" in part else ""), ""]
            for block in part["blocks"]:
                if isinstance(block, str):
                    lines += [block, ""]
                elif "text" in block:
                    lines += [f"{block['title']}:", "", "```", block["text"].rstrip(), "```", ""]
                else:
                    lines += _table(block)
            if "error" in part:
                lines += [f"**Did not come to its end:** {part['error']}", ""]
        return "\n".join(lines).rstrip() + "\n"


def _table(block: dict) -> list[str]:
    columns = list(dict.fromkeys(name for row in block["rows"] for name in row))
    rows = [[_cell(row.get(name, "")) for name in columns] for row in block["rows"]]
    head = [[name.replace("_", " ") for name in columns], ["---"] * len(columns)]
    return [f"{block['title']}:", "", *(f"| {' | '.join(row)} |" for row in [*head, *rows]), ""]


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
