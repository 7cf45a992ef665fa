"""The errors that distrib raises: what each of them is, that it travels, and how long its text may be."""

import pickle

import pytest

from distrib import errors
from distrib.errors import MOST, WIDEST, DistribError, InputError, RunError, bounded

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DistribError)]
ENDS = [kind for kind in KINDS if kind is not DistribError]


@pytest.mark.parametrize("kind", ENDS, ids=lambda kind: kind.__name__)
def test_an_error_is_of_the_input_or_of_the_run_and_of_python_s_own_kind(kind: type[DistribError]):
    of_input = issubclass(kind, InputError)
    assert of_input != issubclass(kind, RunError)
    assert issubclass(kind, ValueError if of_input else RuntimeError)
    assert kind.exit_status == (2 if of_input else 1)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_crosses_to_another_process_as_it_is(kind: type[DistribError]):
    found = pickle.loads(pickle.dumps(kind("field: is wrong; mend it")))
    assert type(found) is kind and str(found) == "field: is wrong; mend it"


def test_a_text_within_bounds_stays_as_it_is():
    text = "\n".join(["x" * WIDEST] * MOST)
    assert bounded(text) == text


def test_a_long_line_is_cut_in_its_middle_and_many_lines_at_their_end():
    assert bounded("a" * 5000 + "b" * 5000) == "a" * 1000 + " [...] " + "b" * 300
    lines = bounded("\n".join(str(number) for number in range(MOST + 7))).split("\n")
    assert lines == [*(str(number) for number in range(MOST)), "... and 7 more lines"]
