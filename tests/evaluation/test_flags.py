"""distrib.evaluation.flags: each measurement raises its own flag, and none where there is nothing to say."""

import pytest
from shards import CALM, probed, result_of, shard


def test_where_there_is_nothing_to_say_there_is_no_flag():
    assert (
        result_of(shard(**CALM)).flags == () and result_of(probed(zero_gradient=[True] * 2 + [False] * 198)).flags == ()
    )


@pytest.mark.parametrize(
    ("fields", "name", "blocking"),
    [
        ({"repeat_change": 1e-3}, "randomised_output", True),
        ({"company_change": 0.01}, "batch_dependent_output", True),
        ({"state_changed": True}, "state_changes", True),
        ({"optimises": True}, "optimisation_inside_forward", True),
        ({"probabilities": True}, "softmax_output", True),
        ({"spread": 1e-3}, "logit_scale", True),
        ({"spread": 1e4}, "logit_scale", True),
        ({"zero_gradient": [True] * 3 + [False] * 197}, "zero_gradients", True),
        ({"epsilon_curve": [(0.5, 70, 200), (1.0, 60, 200)]}, "epsilon_curve_above_chance", True),
        ({"jumps": [0.2] * 4 + [1e-3] * 26}, "discontinuous_output", True),
        ({"ledges": [0.05] * 4 + [1e-6] * 26}, "discontinuous_output", True),
        ({"gradient_errors": [1.0] * 4 + [0.1] * 26}, "wrong_gradients", True),
        ({"epsilon_curve": [(0.3, 50, 200), (0.5, 90, 200), (1.0, 0, 200)]}, "epsilon_curve_rises", False),
        ({"float32_right": 100, "bfloat16_right": 111}, "precision_gap", False),
        ({"float32_right": 100, "bfloat16_right": 89}, "precision_gap", False),
    ],
)
def test_each_measurement_raises_its_own_flag(fields: dict, name: str, blocking: bool):
    (flag,) = result_of(probed(**fields)).flags
    assert (flag.name, flag.blocking) == (name, blocking) and flag.detail
