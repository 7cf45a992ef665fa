"""distrib.trainer: what the metrics of all epochs show of overfitting, and what they do not."""

import pytest

from distrib.trainer import overfitting


def history_of(*pairs: tuple[float, float | None]) -> list[dict[str, float]]:
    """Epochs of which each has (train accuracy, validation robust accuracy or None: not validated)."""
    return [
        {"train_accuracy": train} | ({} if robust is None else {"validation_robust_accuracy": robust})
        for train, robust in pairs
    ]


@pytest.mark.parametrize(
    ("pairs", "sign"),
    [
        ([(0.3, 0.4)], ""),
        ([(0.3, 0.4), (0.4, 0.45), (0.5, 0.44)], ""),
        ([(0.3, 0.4), (0.4, 0.45), (0.9, 0.02)], "catastrophic"),
        ([(0.3, 0.4), (0.4, 0.45), (0.9, None)], ""),  # nobody has looked
        ([(0.3, 0.4), (0.4, None), (0.9, 0.1)], "catastrophic"),
        ([(0.5, 0.4), (0.2, 0.1)], ""),  # it is worse on both: another trouble
        ([(0.4, 0.45), (0.5, 0.42), (0.6, 0.41)], ""),
        ([(0.4, 0.45), (0.5, 0.42), (0.6, 0.41), (0.7, 0.40)], "robust"),
        ([(0.4, 0.45), (0.5, 0.42), (0.6, 0.44), (0.7, 0.40)], ""),  # one of three is as good as the best
        ([(0.4, 0.45), (0.5, 0.42), (0.5, None), (0.6, 0.41), (0.7, 0.40)], "robust"),
    ],
)
def test_overfitting_is_told_by_training_that_improves_while_robustness_falls(pairs: list, sign: str):
    told = overfitting(history_of(*pairs), 2500)
    assert told.startswith(f"{sign} overfitting: validation robust accuracy is") if sign else told == ""
    if sign == "catastrophic":
        assert "45.0% at epoch 2" in told or "40.0% at epoch 1" in told


@pytest.mark.parametrize(("images", "told"), [(200, False), (2000, True)])
def test_what_chance_explains_is_no_overfitting(images: int, told: bool):
    """Two standard errors of 20 % are 5.7 points of 200 images, and 1.8 of 2,000."""
    slow = history_of((0.3, 0.2), (0.4, 0.15), (0.5, 0.16), (0.6, 0.155))
    assert bool(overfitting(slow, images)) == told
    sudden = history_of((0.3, 0.02), (0.9, 0.005))
    assert bool(overfitting(sudden, images)) == told
