"""How epochs are compared: by PGD-10 at the evaluation's own threat, unless the job says otherwise."""

import pytest
from documents import job
from pydantic import ValidationError

from distrib.attack import PGD
from distrib.config.job import Train
from distrib.config.validation import Validation
from distrib.threat import Linf


def test_what_is_left_out_is_pgd_10_at_the_threat_that_is_judged():
    own = Validation()
    assert own.threat is None and own.attack == PGD() and PGD().num_steps == 10 and own.on_overfitting == "warn"
    asked = job(evaluation__threat={"norm": "linf", "epsilon": 0.2})
    assert isinstance(asked, Train) and asked.resolved().validation.threat == Linf(epsilon=0.2)


@pytest.mark.parametrize(
    "fields", [{"every": 0}, {"max_examples": 0}, {"min_clean_accuracy": 1.1}, {"on_overfitting": "ignore"}]
)
def test_bad_fields_are_refused(fields: dict):
    with pytest.raises(ValidationError):
        Validation(**fields)
