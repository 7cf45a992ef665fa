"""What the mailbox between workers and driver costs, and how long it is listened to."""

import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError

from distrib.cluster import messages
from distrib.cluster.messages import Note, listening


def test_a_mailbox_does_without_torch():
    """It is a process of its own on the driver's machine; torch would take it seconds to start, and 200 MB."""
    code = "import sys, distrib.cluster.messages; assert 'ray' in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def sealed(*values: int) -> list[tuple[str, bytes]]:
    return [("robust", pickle.dumps(value)) for value in values]


def heard(monkeypatch: pytest.MonkeyPatch, answers: list[Any]) -> tuple[list[tuple[str, object]], list[int]]:
    """What is heard of a mailbox that answers so, or fails so, and then never again; and the fetches by number."""
    script, calls, asked, found = iter(answers), iter(range(100)), [], []

    class Fetch:
        def remote(self) -> int:
            return next(calls)

    class Actor:
        fetch = Fetch()

        def options(self, **named: object) -> "Actor":
            return self

        def remote(self) -> "Actor":
            return self

    def get(answer: int, timeout: float) -> Iterator:
        asked.append(answer)
        result = next(script, None)
        if result is None:
            time.sleep(0.01)
            raise GetTimeoutError("late")
        if isinstance(result, Exception):
            raise result
        return result

    context = type("Context", (), {"get_node_id": lambda self: "0" * 56})
    monkeypatch.setattr(ray, "get_runtime_context", context)
    monkeypatch.setattr(ray, "remote", lambda what: Actor())
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(messages, "POLL_SECONDS", 0.001)
    enough = len(answers)
    with listening(lambda phase, message: found.append((phase, message))):
        for _ in range(2000):
            if len(asked) >= enough:
                break
            time.sleep(0.005)
    return found, asked


def test_a_late_answer_ends_nothing(monkeypatch: pytest.MonkeyPatch):
    """MLflow's metrics and the display ended for the rest of the run, silently; the answer was lost as well."""
    late = GetTimeoutError("late")
    found, asked = heard(monkeypatch, [sealed(1), late, late, sealed(2), sealed(3), late, sealed(4)])
    assert [message for phase, message in found if phase] == [1, 2, 3, 4]
    assert asked[:7] == [0, 1, 1, 1, 2, 3, 3], "what was asked for is waited for"
    (told,) = [message for phase, message in found if not phase]
    assert isinstance(told, Note) and "are late" in told.text, "it is said once"


def test_a_mailbox_that_cannot_be_reached_for_a_while_is_asked_again(monkeypatch: pytest.MonkeyPatch):
    gone = ActorUnavailableError("no connection", b"0" * 16)
    found, asked = heard(monkeypatch, [sealed(1), gone, sealed(2)])
    assert [message for phase, message in found if phase] == [1, 2] and asked[:3] == [0, 1, 2]


def test_the_end_of_a_mailbox_is_told(monkeypatch: pytest.MonkeyPatch):
    found, asked = heard(monkeypatch, [sealed(1), ActorDiedError()])
    assert found[0] == ("robust", 1) and asked == [0, 1]
    ((phase, told),) = found[1:]
    assert phase == "" and isinstance(told, Note) and "live reports of the workers have ended (" in told.text


def test_a_mailbox_that_never_answers_is_not_waited_for_at_the_end(monkeypatch: pytest.MonkeyPatch):
    before = threading.active_count()
    found, _ = heard(monkeypatch, [])
    assert len(found) == 1 and threading.active_count() == before
