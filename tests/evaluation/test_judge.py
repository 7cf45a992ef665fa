"""A plain module judged in memory: the figures that the formula gives, on a card, and refusals before any attack."""

import pytest
import torch
from torch import Tensor, nn

from distrib.attack import PGD
from distrib.errors import DataError
from distrib.evaluation.attacks import Evaluation, Fgsm, Pgd, Stored, Transfer
from distrib.evaluation.judge import evaluate, judge
from distrib.threat import Linf

EPSILON = 0.05
BALL = Linf(epsilon=EPSILON)
LISTED = Evaluation(threat=BALL, attacks=(Fgsm(attack="fgsm"), Pgd(attack="pgd", num_steps=10)), shard_size=16)


@pytest.fixture
def linear() -> nn.Module:
    """Two classes, told apart by a plane through the middle of the images."""
    torch.manual_seed(0)
    plane = nn.Linear(16, 2)
    plane.bias.data = -plane.weight.data.sum(dim=1) / 2
    return nn.Sequential(nn.Flatten(), plane).train()


@pytest.fixture
def images() -> Tensor:
    """Grey ones, away from the ends of the box, so that the ball is whole."""
    return 0.2 + 0.6 * torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def test_the_figure_of_a_linear_model_is_what_the_formula_says(linear: nn.Module, images: Tensor):
    """The margin falls by epsilon times the 1-norm of the weights' difference, and by no more."""
    with torch.no_grad():
        logits = linear(images)
    y = logits.argmax(dim=1)
    y[:4] = 1 - y[:4]  # and four that it gets wrong
    weight = next(parameter for parameter in linear.parameters() if parameter.ndim == 2)
    reach = EPSILON * (weight[0] - weight[1]).abs().sum()
    margin = (logits[:, 0] - logits[:, 1]).abs()
    stands = (margin > reach) & (logits.argmax(dim=1) == y)
    assert 0 < stands.sum() < 36
    card = judge(linear, images, y, LISTED)
    assert card.claim.clean_accuracy == 0.9 and card.claim.n == 40
    assert card.claim.robust_accuracy == pytest.approx(stands.float().mean().item())
    assert card.claim.attacks["pgd-10"] == card.claim.robust_accuracy and linear.training
    assert (card.image.height, card.image.channels, card.classes, card.model) == (4, 1, ("0", "1"), "Sequential")


def test_a_part_of_the_images_is_drawn_with_the_seed(linear: nn.Module, images: Tensor):
    y = torch.arange(40) % 2
    some = LISTED.model_copy(update={"n": 20})
    one, again = judge(linear, images, y, some, ["a", "b"]), judge(linear, images, y, some, ["a", "b"])
    timeless = {"attack_seconds": {}}
    assert one.claim.model_copy(update=timeless) == again.claim.model_copy(update=timeless)
    assert one.claim.n == 20 and one.classes == ("a", "b") and one.weights_sha256 == again.weights_sha256


@pytest.mark.parametrize(
    ("x", "y", "evaluation", "told"),
    [
        (torch.rand(4, 1, 4, 4), torch.zeros(4).long(), Evaluation(), r"evaluation\.threat: is missing"),
        (torch.rand(4, 16), torch.zeros(4).long(), LISTED, r"x: \[4, 16\] .*expected images"),
        (torch.rand(4, 1, 4, 4) * 255, torch.zeros(4).long(), LISTED, r"in \[0, 1\]"),
        (torch.rand(4, 1, 4, 4), torch.zeros(3).long(), LISTED, r"N labels"),
        (torch.rand(4, 1, 4, 4), torch.zeros(4).long(),
         Evaluation(threat=BALL, attacks=(Transfer(attack="transfer", source="models:/m/1"),)), "they need a job"),
        (torch.rand(4, 1, 4, 4), torch.zeros(4).long(),
         Evaluation(threat=BALL, attacks=(Stored(attack="stored", path="there"),)), "they need a job"),
    ],
    ids=["no threat", "no images", "0 to 255", "labels", "transfer", "stored"],
)  # fmt: skip
def test_what_cannot_be_judged_is_refused_first(
    x: Tensor, y: Tensor, evaluation: Evaluation, told: str, linear: nn.Module
):
    with pytest.raises(DataError, match=told):
        judge(linear, x, y, evaluation)


def test_a_tier_or_a_list_of_attacks_is_asked_for_in_one_call(linear: nn.Module, images: Tensor):
    with torch.no_grad():
        y = linear(images).argmax(dim=1)
    card = evaluate(linear, images, y, BALL, LISTED.attacks)
    assert card.claim.attacks == judge(linear, images, y, LISTED).claim.attacks
    assert (card.robust_accuracy, card.interval, card.flags) == (
        card.claim.robust_accuracy, card.claim.interval, card.claim.flags
    )  # fmt: skip
    named = evaluate(linear, images[:8], y[:8], BALL, "quick")
    assert named.claim.tier == "quick" and set(named.claim.attacks) == {"fgsm", "pgd-20"}
    with pytest.raises(DataError, match=r"^tier: .*'quick', 'paper', 'standard' or 'paranoid', not 'thorough'"):
        evaluate(linear, images, y, BALL, "thorough")  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match=r"^threat: is 0\.1; give distrib\.Linf\(epsilon=8/255\), or L2 or L1$"):
        evaluate(linear, images, y, 0.1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match=r"^tier: distrib\.PGD is for training; list distrib\.Pgd\("):
        evaluate(linear, images, y, BALL, [PGD(num_steps=3)])  # pyright: ignore[reportArgumentType]


def test_a_card_shows_itself(linear: nn.Module, images: Tensor):
    """As text and in a notebook: the figure, the table, and what forbids its use."""
    y = torch.zeros(40, dtype=torch.int64)
    card = evaluate(nn.Sequential(linear, Constant()), images, y, BALL, LISTED.attacks)
    page, cell = str(card), card._repr_html_()
    assert card.blocking and f"**Do not use this figure**: {', '.join(card.blocking)}" in page
    assert f"Do not use this figure: {', '.join(card.blocking)}." in cell and "<td>pgd-10</td>" in cell
    assert f"{card.robust_accuracy:.2%}" in cell and "<html" not in cell and "<style" not in cell


class Constant(nn.Module):
    """Says the first class, and lets no gradient through."""

    def forward(self, logits: Tensor) -> Tensor:
        return torch.stack([torch.ones(len(logits)), torch.zeros(len(logits))], dim=1)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ("float", "labels", "x: is a str; give a torch tensor"),
        (
            torch.zeros(40, 1, 4, 4, dtype=torch.uint8),
            None,
            r"x: is torch\.uint8, .*; give pixels in \[0, 1\]: x\.float",
        ),
        (torch.zeros(40, 1, 4, 4, dtype=torch.float64), None, r"x: is torch\.float64, .*; give x\.float\(\)$"),
        (torch.full((40, 1, 4, 4), float("nan")), None, "x: holds pixels from nan to nan"),
        (torch.rand(40, 1, 4, 4) * 255, None, "x: holds pixels from .* they lie in"),
        (None, torch.eye(40, 2), r"expected images \[N, C, H, W\] and N labels; of one-hot rows give y\.argmax\(1\)"),
        (None, torch.tensor(3), r"y: \[\]: expected images"),
        (None, torch.full((40,), 0.5), r"y: is torch\.float32 from 0\.5; give whole numbers from 0: y\.long\(\)"),
        (None, torch.zeros(40, dtype=torch.int32), r"y: is torch\.int32 from 0; give whole numbers"),
        (None, torch.arange(40) % 3, "y: holds the label 2, but a model of 2 logits knows none from there on"),
        (None, torch.arange(40) % 2 - 1, r"y: is torch\.int64 from -1"),
    ],
)
def test_what_are_no_images_or_labels_is_told(linear: nn.Module, images: Tensor, x: Tensor, y: Tensor, words: str):
    with pytest.raises(DataError, match=words):
        evaluate(linear, images if x is None else x, torch.arange(40) % 2 if y is None else y, BALL, "quick")
