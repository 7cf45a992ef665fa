"""The robustness card: what an evaluation found, what it did not look at, and everything that speaks against it.

One value (JSON, with a schema), told in Markdown (the description of a model version) and as one HTML page that needs
no other file.
"""

import base64
import csv
import io
import json
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import PurePath
from typing import Literal

from jinja2 import Environment, PackageLoader, select_autoescape

from distrib import __version__
from distrib.data.beton import DataCard
from distrib.evaluation.attacks import EvaluationPlan, Fgsm, Pgd, Square, Stored, Transfer
from distrib.evaluation.by_class import LARGEST_TABLE, ClassFigures, figures_by_class, images_in_words
from distrib.evaluation.evidence import Evidence, worst_case
from distrib.evaluation.flags import Flag
from distrib.evaluation.made import Made, Twin
from distrib.evaluation.outcomes import NOT_ASKED, STOOD
from distrib.evaluation.plots import (
    Shown,
    plot_confusion,
    plot_epsilon_curve,
    plot_images,
    plot_restarts,
)
from distrib.evaluation.published import Published, published
from distrib.evaluation.result import Result
from distrib.threat import other_norms
from distrib.values import Value, shown_radius, table_cell

SCHEMA = "distrib/robustness-card/1"


class Shape(Value):
    """Of one image."""

    channels: int
    height: int
    width: int


SEEN = "whether whoever made the weights that training began with had trained them on these test images"


@dataclass(frozen=True)
class Origin:
    """What a card's figures were made of."""

    model: str
    """Its address, or the name of the run that made it."""
    weights_sha256: str
    """Of the file that was judged."""
    contents: dict[str, str]
    """The hashes of the models and sets that attacks take images from, by address."""
    job: dict
    """The job as plain values."""
    job_digest: str
    init: dict[str, str] | None = None
    """The weights that its training began with, and their sha256; None: random ones, or it is not known."""
    made: Made | None = None
    """What the model is, and how it was trained; None where it is not known."""
    natural: Twin | None = None
    """The same network trained without an adversary, where the run has one."""


class Card(Value):
    """The result of an evaluation, and all that is needed to check it: the fields are the keys of card.json."""

    schema_: Literal["distrib/robustness-card/1"] = SCHEMA
    created: str
    """UTC."""
    model: str
    """Its address, or the name of the run that made it."""
    weights_sha256: str
    """Of the file that was judged: weights, or an exported program."""
    image: Shape
    classes: tuple[str, ...]
    data: str
    """The data set."""
    data_sha256: str
    """Of its test images and labels."""
    attacks_sha256: str
    """Of the attacks with their settings, and of the models and sets that they take images from."""
    shard_size: int
    """Images that one task attacked at a time: on them AutoAttack's random numbers depend, as on the seed."""
    claim: Result
    """What the evaluation found."""
    attacks: dict[str, dict]
    """Each attack as the job file says it, with what follows from the threat."""
    tested: tuple[str, ...]
    not_tested: tuple[str, ...]
    software: dict[str, str]
    job: dict
    job_digest: str
    init: dict[str, str] | None = None
    """The weights that its training began with, and their sha256; None: random ones, or it is not known."""
    made: Made | None = None
    """What the model is, and how it was trained; None where it is not known."""
    natural: Twin | None = None
    """The same network trained without an adversary, where the run has one."""
    by_class: tuple[ClassFigures, ...] = ()
    """What became of each class, of the images that every attack was asked for."""

    @classmethod
    def of(
        cls, result: Result, evaluation: EvaluationPlan, test: DataCard, origin: Origin, evidence: Evidence | None
    ) -> "Card":
        """The card of a result of ``evaluation`` (a resolved one) on the test split ``test``.

        The ``evidence`` of the result tells what became of each class.
        """
        height, width, channels = test.image
        return cls(
            created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            model=origin.model,
            weights_sha256=origin.weights_sha256,
            image=Shape(height=height, width=width, channels=channels),
            classes=test.classes,
            data=data_title(origin.job["data"]),
            data_sha256=test.content_sha256,
            attacks_sha256=evaluation.identity(origin.contents),
            shard_size=min(evaluation.shard_size, result.n_clean),
            claim=result,
            attacks={one.name: one.model_dump(mode="json", exclude_defaults=True) for one in evaluation.attacks},
            tested=_tested(result, evaluation),
            not_tested=_not_tested(result, evaluation) + ((SEEN,) if origin.init else ()),
            software={
                "distrib": __version__, "python": platform.python_version(), "machine": platform.machine(),
                **{name: version(name) for name in ("torch", "pyautoattack")},
            },
            job=origin.job,
            job_digest=origin.job_digest,
            init=origin.init,
            made=origin.made,
            natural=origin.natural,
            by_class=() if evidence is None else figures_by_class(evidence),
        )  # fmt: skip

    def plain(self) -> dict:
        """As JSON values, the schema first."""
        dumped = self.model_dump(mode="json")
        return {"schema": dumped.pop("schema_"), **dumped}

    def __str__(self) -> str:
        return markdown(self)

    def _repr_html_(self) -> str:
        """The claim, the table and the flags, as a notebook shows them."""
        return _page("card_short.html.j2", self)

    @property
    def clean_accuracy(self) -> float:
        """The share of the images that are classified rightly as they are."""
        return self.claim.clean_accuracy

    @property
    def robust_accuracy(self) -> float:
        """The share of the images that are classified rightly under every attack."""
        return self.claim.robust_accuracy

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the robust accuracy (Wilson)."""
        return self.claim.interval

    @property
    def flags(self) -> tuple[Flag, ...]:
        """What was found that makes the figure doubtful."""
        return self.claim.flags

    @property
    def blocking(self) -> tuple[str, ...]:
        """The names of the flags for which the figure is not to be used."""
        return tuple(flag.name for flag in self.claim.flags if flag.blocking)

    def tags(self) -> dict[str, str]:
        """What a model version can be searched and compared by."""
        result = self.claim
        accuracies = {
            f"accuracy.{name}": f"{value:.4f} (n={result.attacks_n[name]})" for name, value in result.attacks.items()
        }
        return {
            "tier": result.tier,
            "norm": result.norm,
            "epsilon": f"{result.epsilon:.6g}",
            "attacks": ",".join(sorted(result.attacks)),
            "n": str(result.n),
            "seed": str(result.seed),
            "shard_size": str(self.shard_size),
            "clean_accuracy": f"{result.clean_accuracy:.4f}",
            "robust_accuracy": f"{result.robust_accuracy:.4f}",
            "flags": ",".join(flag.name for flag in result.flags) or "none",
            "blocking": ",".join(self.blocking) or "none",
            "data_sha256": self.data_sha256,
            "attacks_sha256": self.attacks_sha256,
            "examples_sha256": result.examples_sha256,
            "job_digest": self.job_digest,
            **accuracies,
            **({"init": self.init["weights"], "init_sha256": self.init["sha256"]} if self.init else {}),
        }


def data_title(data: dict) -> str:
    """What a data set is called: its source, and of one's own the name of the folder or file."""
    place = {"folder": "root", "arrays": "test", "huggingface": "path"}.get(data["source"], "")
    return f"{data['source']} {PurePath(data[place]).name}".strip() if data.get(place) else data["source"]


def _tested(result: Result, evaluation: EvaluationPlan) -> tuple[str, ...]:
    kinds = {type(attack) for attack in evaluation.attacks}
    steps = "many steps beat one, " if {Fgsm, Pgd} <= kinds else ""
    ball = f"{result.norm} perturbations up to {shown_radius(result.epsilon)} of pixels in [0, 1]"
    return (
        f"{ball}, by {', '.join(result.attacks)}",
        "whether every stored image lies in the ball and in [0, 1], and is classified again as it was",
        "whether the model is deterministic, gives logits, does not change, and judges each image by itself",
        f"whether gradients are there, {steps}and a growing epsilon breaks everything",
        "whether PGD-40 on the margin breaks what the listed attacks do not, on the first images",
        "whether the model is continuous, its gradient that of finite differences, and worst images the same on 8 bits",
    )


def _not_tested(result: Result, evaluation: EvaluationPlan) -> tuple[str, ...]:
    other = other_norms(result.norm)
    kinds = {type(attack) for attack in evaluation.attacks}
    beyond = f"epsilon above {shown_radius(result.epsilon)}"
    lines = [
        f"other threats: {other} balls, {beyond}, rotations, blur, patches, corruptions",
        "attacks written for this very model: the figure is an upper bound, for a stronger attack may find more",
    ]
    if "autoattack" not in result.attacks:
        lines.append("AutoAttack: the figure is of the listed attacks alone, and is likely too high")
    if Transfer not in kinds:
        lines.append("images made on other models (transfer)")
    if not kinds & {Square, Transfer, Stored} and "square" not in result.stages:
        lines.append("attacks without the model's gradient")
    if result.n < result.n_clean:
        lines.append(f"{result.n_clean - result.n} of the {result.n_clean} images: they met a part of the attacks only")
    return tuple(lines)


def rows(result: Result) -> list[tuple[str, str, int]]:
    """(attack, accuracy, images) of the table, clean first and the worst case last."""
    table = [("clean", f"{result.clean_accuracy:.2%}", result.n_clean)]
    for name, accuracy in result.attacks.items():
        label = f"{name} (on what still stood)" if name in result.cumulative else name
        table.append((label, f"{accuracy:.2%}", result.attacks_n[name]))
        if name == "autoattack":
            table += [
                (f"after {part}", f"{value:.2%}", result.attacks_n[name]) for part, value in result.stages.items()
            ]
    return table


def markdown(card: Card) -> str:
    """The card for readers of the registry."""
    return _page("card.md.j2", card)


def html(card: Card, plots: dict[str, bytes], images: dict[int, str] | None = None) -> str:
    """The card as a page; ``plots`` are SVG files by their title, ``images`` say of test images what they are."""
    inside = {title: base64.b64encode(svg).decode() for title, svg in plots.items()}
    return _page("card.html.j2", card, plots=inside, images=images or {})


def about(card: Card) -> str:
    """What was measured, in a line: model, threat, images."""
    result = card.claim
    return f"{card.model} · {result.norm} {shown_radius(result.epsilon)} · {result.n:,} test images of {card.data}"


def weakest(card: Card) -> list[ClassFigures]:
    """The classes that a card has room for, the least robust first."""
    return sorted(card.by_class, key=lambda one: (one.robust_accuracy, one.clean_accuracy))[:LARGEST_TABLE]


FEWEST_AMONG = 500
"""Images that a figure must be of, to stand among published ones."""


def no_place(card: Card) -> str:
    """Why a figure cannot be held against those that AutoAttack gave on a whole test set; empty where it can."""
    result = card.claim
    if card.blocking:
        return f"flagged {', '.join(card.blocking)}"
    if not {"apgd-ce", "apgd-t", "square"} <= result.stages.keys():
        return "not judged by the whole of AutoAttack"
    return "" if result.n >= FEWEST_AMONG else f"judged on {result.n} images alone"


def standing_among(card: Card) -> list[Published]:
    """Published figures and this card's, the strongest first.

    Empty where the threat is not a known one. A figure that has no place among them (:func:`no_place`) comes last.
    """
    result = card.claim
    others = published(card.data, result.norm, result.epsilon)
    if not others:
        return []
    low, high = (f"{100 * end:.1f}" for end in result.interval)
    name = f"{card.model} ({low} to {high})"
    mine = Published(name, 100 * result.clean_accuracy, 100 * result.robust_accuracy, "")
    if no_place(card):
        return [*others, mine]
    return sorted([*others, mine], key=lambda one: -one.robust)


def model_address(card: Card) -> str | None:
    """Where the model can be had, as far as is known before it is registered; None where it is in no registry."""
    if card.model.startswith("models:/"):
        return card.model
    name = card.job.get("register_as")
    return f"models:/{name}/VERSION" if name else None


def _page(template: str, card: Card, **more: object) -> str:
    environment = Environment(
        loader=PackageLoader("distrib", "evaluation"), autoescape=select_autoescape(["html.j2"], default=False),
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["radius"] = shown_radius
    environment.filters["cell"] = table_cell
    environment.filters["percent"] = lambda share: f"{100 * share:.2f}"
    known = {
        "card": card, "result": card.claim, "rows": rows(card.claim), "weakest": weakest(card),
        "among": standing_among(card), "no_place": no_place(card), "address": model_address(card),
    }  # fmt: skip
    return environment.get_template(template).render(**known, **more) + "\n"


def examples(evidence: Evidence) -> str:
    """The outcome of every image as CSV: its index in the test split, label, prediction, and a column for each attack.

    1: rightly classified; 0: not; empty: the attack was not asked for it. ``worst`` is that of all attacks together.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["index", "label", "predicted", "clean", *evidence.outcomes, "worst"])
    every, standing = worst_case(evidence)
    clean = evidence.clean
    for i, index in enumerate(evidence.index.tolist()):
        cells = ["" if one[i] == NOT_ASKED else int(one[i] == STOOD) for one in evidence.outcomes.values()]
        worst = int(standing[i]) if every[i] else ""
        table.writerow([index, evidence.label[i], evidence.predicted[i], int(clean[i]), *cells, worst])
    return text.getvalue()


def card_files(card: Card, evidence: Evidence, shown: list[Shown]) -> dict[str, bytes]:
    """The files of a card, by name."""
    result, told = card.claim, about(card)
    plots = {}
    if shown:
        plots["Test images, and the worst that was found for each"] = plot_images(shown, told)
    if 1 < len(card.by_class) <= LARGEST_TABLE:
        plots["What the images of each class are taken for under attack"] = plot_confusion(card.by_class, told)
    probed = f"{card.model} · {result.norm} · the first {max(n for _, _, n in result.epsilon_curve):,} of them"
    curve = plot_epsilon_curve(result.epsilon_curve, result.epsilon, len(card.classes), probed)
    plots["Accuracy as epsilon grows"] = curve
    if result.restarts:
        plots["Images broken after each restart"] = plot_restarts(result.restarts, told)
    return {
        "card.json": (json.dumps(card.plain(), indent=2) + "\n").encode(),
        "card.md": markdown(card).encode(),
        "card.html": html(card, plots, images_in_words(evidence)).encode(),
        "examples.csv": examples(evidence).encode(),
    }
