"""What the person at the terminal sees: a bar on a terminal, now and then a line elsewhere."""

import io
import re

import pytest
from rich.console import Console

from distrib.tracking.display import LINE_SECONDS, Display


def display_on(terminal: bool) -> tuple[Display, io.StringIO]:
    shown, kind = io.StringIO(), {"TERM": "xterm"}  # on a dumb one rich draws no bar
    console = Console(file=shown, force_terminal=terminal, highlight=False, soft_wrap=True, width=200, _environ=kind)
    return Display(console), shown


def test_a_file_gets_a_line_at_most_every_so_often(monkeypatch: pytest.MonkeyPatch):
    moments = iter([0.0, 1.0, LINE_SECONDS + 0.0, LINE_SECONDS + 1.0])
    monkeypatch.setattr("time.monotonic", lambda: next(moments))
    display, shown = display_on(terminal=False)
    for done in (0, 1, 30, 31):
        display.advance("training", done, 60, f"step {done}")
    assert shown.getvalue() == f"training: 50%, ETA 0:00:{LINE_SECONDS}, step 30\n"


def test_a_terminal_gets_a_bar_that_is_gone_at_the_end():
    display, shown = display_on(terminal=True)
    with display:
        display.advance("training", 1, 4, "epoch 1")
        display.say("an epoch [is] over")  # square brackets are text
        display.advance("training", 3, 4, "epoch 3")
        assert display.bar is not None
    assert display.bar is None and "an epoch [is] over" in shown.getvalue() and "training" in shown.getvalue()


def test_another_title_begins_another_bar():
    display, _ = display_on(terminal=True)
    with display:
        display.advance("training", 4, 4, "")
        first = display.bar
        display.advance("evaluating", 0, 9, "")
        assert display.bar is not first


@pytest.mark.parametrize("width", [60, 80, 200])
def test_share_and_time_left_are_never_cut(width: int):
    """A long detail is, where the terminal is narrow."""
    shown, kind = io.StringIO(), {"TERM": "xterm"}
    console = Console(file=shown, force_terminal=True, highlight=False, soft_wrap=True, width=width, _environ=kind)
    detail = "epoch 12.3, loss 1.234, 12345 images/s, clean 98.9%, robust 91.9% and more"
    with Display(console) as display:
        for done in (10, 45):
            display.advance("robust training", done, 100, detail)
        assert display.bar is not None
        display.bar.refresh()
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.getvalue())
    line = [text for text in re.split(r"[\r\n]", plain) if "45%" in text][-1]
    assert "robust training  45%" in line and re.search(r"ETA (0:00:\d\d|-:--:--)", line) and len(line) <= width
    assert (detail in line) == (width == 200) and ("…" in line) == (width < 200)


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_left_is_about_so_much_while_nothing_is_finished(terminal: bool, monkeypatch: pytest.MonkeyPatch):
    moments = {"now": 0.0}
    monkeypatch.setattr("distrib.tracking.display.time.monotonic", lambda: moments["now"])
    display, shown = display_on(terminal)
    with display:
        for done, rough in ((0, True), (1, True), (2, False)):
            moments["now"] = 3600.0 * done
            display.advance("search", done, 4, "", rough)
            if display.bar is not None:
                display.bar.refresh()
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.getvalue())
    assert "ETA about 3:00:00" in plain and "ETA 2:00:00" in plain
    assert not terminal or "ETA about -:--:--" in plain
