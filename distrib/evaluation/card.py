"""The robustness card: what an evaluation found, what it did not look at, and everything that speaks against it.

One value (JSON, with a schema), told in Markdown (the description of a model version) and as one HTML page that needs
no other file.
"""

import base64
import csv
import io
import json
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Literal

from jinja2 import Environment, PackageLoader, select_autoescape

from distrib import __version__
from distrib.evaluation.attacks import Evaluation, Fgsm, Pgd, Square, Stored, Transfer
from distrib.evaluation.flags import Evidence
from distrib.evaluation.plots import plot_epsilon_curve, plot_images, plot_restarts
from distrib.evaluation.result import Result, worst_case
from distrib.evaluation.shard import NOT_ASKED, STOOD
from distrib.values import Value

SCHEMA = "distrib/robustness-card/1"


class Shape(Value):
    """Of one image."""

    channels: int
    height: int
    width: int


class Card(Value):
    """A claim, and all that is needed to believe it or to doubt it."""

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
    attacks: dict[str, dict]
    """Each attack as the job file says it, with what follows from the threat."""
    tested: tuple[str, ...]
    not_tested: tuple[str, ...]
    software: dict[str, str]
    job: dict
    job_digest: str

    @classmethod
    def of(
        cls, claim: Result, suite: Evaluation, contents: dict[str, str], model: str, weights_sha256: str,
        image: tuple[int, int, int],
        classes: tuple[str, ...], data: str, data_sha256: str, job: dict, job_digest: str,
    ) -> "Card":  # fmt: skip
        """The card of a claim; ``image`` is (H, W, C), ``contents`` as for :meth:`Evaluation.identity`."""
        return cls(
            created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            model=model,
            weights_sha256=weights_sha256,
            image=Shape(height=image[0], width=image[1], channels=image[2]),
            classes=classes,
            data=data,
            data_sha256=data_sha256,
            attacks_sha256=suite.identity(contents),
            shard_size=min(suite.shard_size, claim.n_clean),
            claim=claim,
            attacks={attack.name: attack.model_dump(mode="json", exclude_defaults=True) for attack in suite.attacks},
            tested=_tested(claim, suite),
            not_tested=_not_tested(claim, suite),
            software={
                "distrib": __version__, "python": platform.python_version(), "machine": platform.machine(),
                **{name: version(name) for name in ("torch", "pyautoattack")},
            },
            job=job,
            job_digest=job_digest,
        )  # fmt: skip

    def plain(self) -> dict:
        """As JSON values, the schema first."""
        dumped = self.model_dump(mode="json")
        return {"schema": dumped.pop("schema_"), **dumped}

    @property
    def blocking(self) -> tuple[str, ...]:
        """The names of the flags for which the figure is not to be used."""
        return tuple(flag.name for flag in self.claim.flags if flag.blocking)

    def tags(self) -> dict[str, str]:
        """What a model version can be searched and compared by."""
        claim = self.claim
        accuracies = {
            f"accuracy.{name}": f"{value:.4f} (n={claim.attacks_n[name]})" for name, value in claim.attacks.items()
        }
        return {
            "tier": claim.tier,
            "norm": claim.norm,
            "epsilon": f"{claim.epsilon:.6g}",
            "attacks": ",".join(sorted(claim.attacks)),
            "n": str(claim.n),
            "seed": str(claim.seed),
            "shard_size": str(self.shard_size),
            "clean_accuracy": f"{claim.clean_accuracy:.4f}",
            "robust_accuracy": f"{claim.robust_accuracy:.4f}",
            "flags": ",".join(flag.name for flag in claim.flags) or "none",
            "blocking": ",".join(self.blocking) or "none",
            "data_sha256": self.data_sha256,
            "attacks_sha256": self.attacks_sha256,
            "examples_sha256": claim.examples_sha256,
            "job_digest": self.job_digest,
            **accuracies,
        }


def _tested(claim: Result, suite: Evaluation) -> tuple[str, ...]:
    kinds = {type(attack) for attack in suite.attacks}
    steps = "many steps beat one, " if {Fgsm, Pgd} <= kinds else ""
    ball = f"{claim.norm} perturbations up to {claim.epsilon:.4g} of pixels in [0, 1]"
    return (
        f"{ball}, by {', '.join(claim.attacks)}",
        "whether every stored image lies in the ball and in [0, 1], and is classified again as it was",
        "whether the model is deterministic, gives logits, does not change, and judges each image by itself",
        f"whether gradients are there, {steps}and a growing epsilon breaks everything",
        "whether PGD-40 on the margin breaks what the listed attacks do not, on the first images",
        "whether the model is continuous, its gradient that of finite differences, and worst images the same on 8 bits",
    )


def _not_tested(claim: Result, suite: Evaluation) -> tuple[str, ...]:
    other = "L2" if claim.norm == "linf" else "Linf"
    kinds = {type(attack) for attack in suite.attacks}
    lines = [
        f"other threats: {other} balls, epsilon above {claim.epsilon:.4g}, rotations, blur, patches, corruptions",
        "attacks written for this very model: the figure is an upper bound, for a stronger attack may find more",
    ]
    if "autoattack" not in claim.attacks:
        lines.append("AutoAttack: the figure is of the listed attacks alone, and is likely too high")
    if Transfer not in kinds:
        lines.append("images made on other models (transfer)")
    if not kinds & {Square, Transfer, Stored} and "square" not in claim.stages:
        lines.append("attacks without the model's gradient")
    if claim.n < claim.n_clean:
        lines.append(f"{claim.n_clean - claim.n} of the {claim.n_clean} images: they met a part of the attacks only")
    return tuple(lines)


def rows(claim: Result) -> list[tuple[str, str, int]]:
    """(attack, accuracy, images) of the table, clean first and the worst case last."""
    table = [("clean", f"{claim.clean_accuracy:.2%}", claim.n_clean)]
    for name, accuracy in claim.attacks.items():
        label = f"{name} (on what still stood)" if name in claim.cumulative else name
        table.append((label, f"{accuracy:.2%}", claim.attacks_n[name]))
        if name == "autoattack":
            table += [(f"after {part}", f"{value:.2%}", claim.attacks_n[name]) for part, value in claim.stages.items()]
    return table


def markdown(card: Card) -> str:
    """The card for readers of the registry."""
    return _page("card.md.j2", card, {})


def html(card: Card, plots: dict[str, bytes]) -> str:
    """The card as a page; ``plots`` are PNG files by their title."""
    return _page("card.html.j2", card, {title: base64.b64encode(png).decode() for title, png in plots.items()})


def _page(template: str, card: Card, plots: dict[str, str]) -> str:
    room = Environment(
        loader=PackageLoader("distrib", "evaluation"), autoescape=select_autoescape(["html.j2"], default=False),
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    claim = card.claim
    return room.get_template(template).render(card=card, claim=claim, rows=rows(claim), plots=plots) + "\n"


def examples(found: Evidence) -> str:
    """Every image's fate as CSV: its index in the test split, label, prediction, and a column for each attack.

    1: rightly classified; 0: not; empty: the attack was not asked for it. ``worst`` is that of all attacks together.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["index", "label", "predicted", "clean", *found.fate, "worst"])
    every, standing = worst_case(found)
    clean = found.clean
    for i, index in enumerate(found.index.tolist()):
        fates = ["" if fate[i] == NOT_ASKED else int(fate[i] == STOOD) for fate in found.fate.values()]
        worst = int(standing[i]) if every[i] else ""
        table.writerow([index, found.label[i], found.predicted[i], int(clean[i]), *fates, worst])
    return text.getvalue()


def card_files(card: Card, found: Evidence, shown: list[tuple]) -> dict[str, bytes]:
    """The files of a card, by name; ``shown`` are (image, worst image, caption), arrays ``[H, W, C]`` in [0, 1]."""
    claim = card.claim
    plots = {"Accuracy as epsilon grows": plot_epsilon_curve(claim.epsilon_curve, claim.epsilon, len(card.classes))}
    if claim.restarts:
        plots["Images broken after each restart"] = plot_restarts(claim.restarts)
    if shown:
        plots["Test images, and the worst that was found for each"] = plot_images(shown)
    return {
        "card.json": (json.dumps(card.plain(), indent=2) + "\n").encode(),
        "card.md": markdown(card).encode(),
        "card.html": html(card, plots).encode(),
        "examples.csv": examples(found).encode(),
    }
