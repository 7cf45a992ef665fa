"""What a training worker does, in this process and without Ray: what it measures, keeps and says."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray.train
import torch
from documents import job
from safetensors.torch import load_file
from torch import nn

from distrib import checkpoints, trainer
from distrib.checkpoints import ROBUST, best_epoch, history
from distrib.cluster import train
from distrib.cluster.messages import Note, Started
from distrib.cluster.train import WorkOrder
from distrib.config.job import Train
from distrib.data.beton import open_split
from distrib.data.loader import MemoryReader
from distrib.data.packing import prepare
from distrib.data.source import Folder
from distrib.models.weights import save_weights
from distrib.world import World


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[object]]:
    """``work(job, data, reports)`` trains as the one worker of ``job``, and gives what it posted."""
    monkeypatch.setattr(train, "get_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(train.ray.util, "get_node_ip_address", lambda: "here")
    monkeypatch.setattr(ray.train, "report", lambda metrics: None)

    def run(job: Train, data: Path, reports: bool = False, init: Path | None = None) -> list[object]:
        posted: list[object] = []
        monkeypatch.setattr(train, "post", lambda mailbox, phase, message: posted.append(message))
        order = WorkOrder(job, data, tmp_path / "run", {"robust": job}, reports=reports, init=init)
        train.worker({"order": order, "mailbox": None})
        return posted

    return run


def train_job(data: Path, **changes: object) -> Train:
    """A short training on those pictures."""
    fields: dict[str, object] = {
        "data": {"source": "folder", "root": str(data)},
        "model__width": 0.25,
        "optim__batch_size": 10,
        "optim__epochs": 3,
        "objective": {"method": "natural"},
        "evaluation__threat": {"norm": "linf", "epsilon": 0.1},
        "validation__max_examples": 10,
    }
    made = job(**fields | changes)
    assert isinstance(made, Train)
    return made.resolved()


class Misleading:
    """In the first epoch a model that knows only the first two classes, afterwards one that knows only the others."""

    def __init__(self):
        self.seen: list[np.ndarray] = []

    def accuracy(self, validation: trainer.ValidationSet, model: nn.Module, world: World) -> tuple[float, float]:
        reader = validation.reader
        assert isinstance(reader, MemoryReader)
        self.seen.append(validation.indices)
        first = reader.label[torch.from_numpy(validation.indices)] < 2
        right = (first if len(self.seen) == 1 else ~first).float().mean().item()
        return right, right


def test_the_epochs_are_compared_on_images_of_every_class(
    tmp_path: Path, sorted_by_class: Path, work: Callable, monkeypatch: pytest.MonkeyPatch
):
    """Ten of the first images would be of two classes, and the epoch that knows nothing else would be registered."""
    misleading = Misleading()
    monkeypatch.setattr(trainer.ValidationSet, "accuracy", lambda *arguments: misleading.accuracy(*arguments))
    job = train_job(sorted_by_class)
    work(job, sorted_by_class)
    found = history(tmp_path / "run" / "robust", pytest.fail)
    assert best_epoch(found, 0.0) > 1, [epoch[ROBUST] for epoch in found]
    labels = MemoryReader(open_split(sorted_by_class, "validation", "training")).label
    assert {len(indices) for indices in misleading.seen} == {10}
    assert len(set(labels[torch.from_numpy(misleading.seen[0])].tolist())) == 5
    longer = train_job(sorted_by_class, optim__epochs=4)
    work(longer, sorted_by_class)  # goes on after the third epoch
    assert len(misleading.seen) == 4, "and every epoch on the same images, also after a restart"
    assert all(np.array_equal(indices, misleading.seen[0]) for indices in misleading.seen)


@pytest.mark.parametrize(
    ("arch", "statistics", "before", "words"),
    [
        (
            "preact_resnet",
            "local",
            2,
            "trained on 2 workers so far, and on 1 from here: BatchNorm sees 10 images at a time, not 5",
        ),
        ("preact_resnet", "local", 1, ""),
        ("preact_resnet", "local", None, ""),  # of an older version, which did not keep the number
        ("preact_resnet", "synchronised", 2, ""),
        ("small_cnn", "local", 2, ""),
    ],
)
def test_another_number_of_workers_at_a_resumption_is_said_of_batch_norm(
    tmp_path: Path,
    sorted_by_class: Path,
    work: Callable,
    monkeypatch: pytest.MonkeyPatch,
    arch: str,
    statistics: str,
    before: int | None,
    words: str,
):
    job = train_job(sorted_by_class, model={"arch": arch, "width": 0.0625}, optim__epochs=1, batch_norm=statistics)
    first = work(job, sorted_by_class)
    assert not [message for message in first if isinstance(message, Note)]
    whole = checkpoints.latest

    def of_before(*arguments):
        stored = whole(*arguments)
        assert stored is not None
        last = stored.history[0] | {"num_workers": before}
        return replace(stored, history=[{name: value for name, value in last.items() if value is not None}])

    monkeypatch.setattr(checkpoints, "latest", of_before)
    notes = [message.text for message in work(job, sorted_by_class) if isinstance(message, Note)]
    assert len(notes) == bool(words) and all(words in note for note in notes)


@pytest.mark.parametrize(
    ("epochs", "examples", "marked", "told"),
    [
        (3, 10, False, True),
        (3, 10, True, False),  # by a version that draws them
        (3, 1000, False, False),  # all that there are, then and now
        (1, 10, False, False),  # done: there is no other epoch to compare it with
    ],
)
def test_epochs_that_an_older_version_compared_on_other_images_are_told(
    tmp_path: Path,
    sorted_by_class: Path,
    work: Callable,
    monkeypatch: pytest.MonkeyPatch,
    epochs: int,
    examples: int,
    marked: bool,
    told: bool,
):
    """It took the first held-out images, not a draw, and kept no number of workers."""
    changes = {"model": {"arch": "small_cnn", "width": 0.0625}, "validation__max_examples": examples}
    work(train_job(sorted_by_class, **changes, optim__epochs=1), sorted_by_class)
    if not marked:
        whole = checkpoints.latest

        def of_before(*arguments):
            stored = whole(*arguments)
            return replace(
                stored, history=[{k: v for k, v in one.items() if k != "num_workers"} for one in stored.history]
            )

        monkeypatch.setattr(checkpoints, "latest", of_before)
    posted = work(train_job(sorted_by_class, **changes, optim__epochs=epochs), sorted_by_class)
    notes = [message.text for message in posted if isinstance(message, Note)]
    assert len(notes) == told and all("warning: epoch 1 was compared on other held-out images" in one for one in notes)


def test_a_number_format_that_was_chosen_is_kept_when_the_run_goes_on_elsewhere(
    sorted_by_class: Path, work: Callable, monkeypatch: pytest.MonkeyPatch
):
    """Begun on a machine with bfloat16, gone on with on one without: it is slow there, and said to be."""
    changes = {"model": {"arch": "small_cnn", "width": 0.0625}, "precision": "auto"}
    monkeypatch.setattr("distrib.precision.computes", lambda number: True)
    (first,) = [one for one in work(train_job(sorted_by_class, **changes, optim__epochs=1), sorted_by_class)
                if isinstance(one, Started)]  # fmt: skip
    monkeypatch.setattr("distrib.precision.computes", lambda number: False)
    posted = work(train_job(sorted_by_class, **changes, optim__epochs=2), sorted_by_class)
    (again,) = [one for one in posted if isinstance(one, Started)]
    assert (first.precision, again.precision, again.start_epoch) == ("bfloat16", "bfloat16", 1)
    assert any("this CPU has no bfloat16" in one.text for one in posted if isinstance(one, Note))


@pytest.mark.parametrize(("reports", "told"), [(False, []), (True, [1, 2, 2])])
def test_epochs_are_reported_to_ray_train_where_someone_listens(
    sorted_by_class: Path, work: Callable, monkeypatch: pytest.MonkeyPatch, reports: bool, told: list[int]
):
    """Each report waits for the controller's next look, so short epochs would last as long as the time between two."""
    heard, met = [], []
    monkeypatch.setattr(ray.train, "report", lambda metrics: heard.append(metrics["epoch"]))
    monkeypatch.setattr(World, "barrier", lambda world: met.append(world.rank))
    job = train_job(sorted_by_class, model={"arch": "small_cnn", "width": 0.0625}, optim__epochs=2)
    for _ in range(2):  # the second finds it done: whoever listens is told how it ended
        work(job, sorted_by_class, reports)
    assert heard == told
    assert len(met) == (0 if reports else 2), "else a rank goes on before the epoch is stored"


def weights_after(tmp_path: Path) -> dict[str, torch.Tensor]:
    found = checkpoints.latest(tmp_path / "run" / "robust", pytest.fail)
    assert found is not None
    return load_file(found.judged)


@pytest.mark.parametrize("freeze", ["none", "body"])
def test_training_begins_with_the_weights_that_it_is_given(
    tmp_path: Path, sorted_by_class: Path, work: Callable, freeze: str
):
    """A frozen body keeps its weights and its statistics; else all of it moves, from there. So after a resumption."""
    card = open_split(sorted_by_class, "train", "training").card
    job = train_job(
        sorted_by_class, model={"arch": "preact_resnet", "width": 0.0625, "depth": 12}, optim__epochs=1,
        optim__lr=1e-4, init={"weights": "there", "head": "new", "freeze": freeze},
    )  # fmt: skip
    torch.manual_seed(9)
    height, width, channels = card.image
    begun = job.model.build((channels, height, width), len(card.classes), card.mean, card.std)
    save_weights(begun, file := tmp_path / "init.safetensors")
    for epochs in (1, 2):
        work(
            job.model_copy(update={"optim": job.optim.model_copy(update={"epochs": epochs})}),
            sorted_by_class,
            init=file,
        )
        own, after = begun.state_dict(), weights_after(tmp_path)
        moved = {name: (after[name].float() - own[name].float()).abs().max().item() for name in own}
        body = {name: far for name, far in moved.items() if not name.startswith(("classifier", "normalise"))}
        assert moved["classifier.weight"] > 1e-3, "drawn anew"
        if freeze == "body":
            assert set(body.values()) == {0.0}
        else:
            kernels = {name: far for name, far in body.items() if own[name].ndim == 4}
            assert all(0 < far < 1e-2 for far in kernels.values())


def test_windows_of_images_that_are_stored_larger_are_trained_on(
    tmp_path: Path, pictures: Callable[..., Path], work: Callable
):
    """The network takes images as it is judged on."""
    root = pictures(tmp_path / "images", [(16, 14)] * 20)
    fields = {"root": str(root), "source": "folder", "size": 8, "validation": 0.3}
    found = []
    for resize in (None, 12):
        data = Folder.model_validate(fields | {"store": str(tmp_path / "store"), "resize": resize})
        packed = prepare(data, "memory", {}, "", lambda text: None)
        work(train_job(packed, optim__epochs=1), packed)
        found.append(weights_after(tmp_path))
        shutil.rmtree(tmp_path / "run")
    assert {name: one.shape for name, one in found[0].items()} == {name: one.shape for name, one in found[1].items()}
    assert not all(torch.equal(one, found[1][name]) for name, one in found[0].items())


def test_a_network_of_one_s_own_is_trained_and_resumed(tmp_path: Path, sorted_by_class: Path, work: Callable):
    source = (
        "from torch import nn\ndef build(image, num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(image[0] * image[1] * image[2], num_classes))\n"
    )
    model = {"arch": "custom", "factory": "mine:build", "source": source, "batch_norm": False}
    job = train_job(sorted_by_class, model=model, optim__epochs=1)
    work(job, sorted_by_class)
    begun = weights_after(tmp_path)
    work(job.model_copy(update={"optim": job.optim.model_copy(update={"epochs": 2})}), sorted_by_class)
    after = weights_after(tmp_path)
    assert set(after) == {"1.weight", "1.bias"} and not torch.equal(after["1.weight"], begun["1.weight"])
    assert len(history(tmp_path / "run" / "robust", pytest.fail)) == 2


OVERFITTING = {"objective": {"method": "fast", "threat": {"norm": "linf", "epsilon": 0.1}}, "model__width": 0.125}


def told_of(monkeypatch: pytest.MonkeyPatch, epochs: set[int]) -> None:
    """Those epochs, and no others, show overfitting: whether they do is proved elsewhere."""
    monkeypatch.setattr(trainer, "overfitting", lambda history, images: "overfitted" if len(history) in epochs else "")


def test_overfitting_is_only_told_unless_more_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sorted_by_class: Path, work: Callable
):
    told_of(monkeypatch, {2})
    posted = work(train_job(sorted_by_class, **OVERFITTING), sorted_by_class)
    assert [one.text for one in posted if isinstance(one, Note)] == ["warning: robust epoch 2: overfitted"]
    assert len(history(tmp_path / "run" / "robust", print)) == 3


def test_overfitting_that_lasts_is_told_once(monkeypatch: pytest.MonkeyPatch, sorted_by_class: Path, work: Callable):
    """Each time it begins; an epoch without it is the end of it, and another kind of it another beginning."""
    signs = {2: "sudden: 9 %", 3: "sudden: 8 %", 5: "sudden: 7 %", 6: "slow: 6 %"}
    monkeypatch.setattr(trainer, "overfitting", lambda history, images: signs.get(len(history), ""))
    posted = work(train_job(sorted_by_class, optim__epochs=7, **OVERFITTING), sorted_by_class)
    told = [one.text.removeprefix("warning: robust ") for one in posted if isinstance(one, Note)]
    assert told == ["epoch 2: sudden: 9 %", "epoch 5: sudden: 7 %", "epoch 6: slow: 6 %"]


def test_overfitting_that_lasts_is_told_once_where_not_every_epoch_is_validated(
    monkeypatch: pytest.MonkeyPatch, sorted_by_class: Path, work: Callable
):
    signs = {2: "sudden: 9 %", 4: "sudden: 8 %"}
    monkeypatch.setattr(trainer, "overfitting", lambda history, images: signs.get(len(history), ""))
    posted = work(train_job(sorted_by_class, optim__epochs=5, validation__every=2, **OVERFITTING), sorted_by_class)
    told = [one.text.removeprefix("warning: robust ") for one in posted if isinstance(one, Note)]
    assert told == ["epoch 2: sudden: 9 %"]


def test_overfitting_ends_training_for_good_where_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sorted_by_class: Path, work: Callable
):
    told_of(monkeypatch, {2})
    asked = train_job(sorted_by_class, validation__on_overfitting="stop", **OVERFITTING)
    posted = work(asked, sorted_by_class)
    assert any(isinstance(one, Note) and "overfitted; training ends here" in one.text for one in posted)
    stored = history(tmp_path / "run" / "robust", print)
    assert [trainer.STOPPED in one for one in stored] == [False, True]
    again = work(asked, sorted_by_class)
    assert (
        not any(isinstance(one, trainer.EpochEnd) for one in again)
        and history(tmp_path / "run" / "robust", print) == stored
    )


def test_overfitting_goes_back_to_the_best_epoch_where_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sorted_by_class: Path, work: Callable
):
    told_of(monkeypatch, {2})
    fields = {"keep_checkpoints": 9, "validation__on_overfitting": "roll_back", **OVERFITTING}
    work(train_job(sorted_by_class, **fields), sorted_by_class)
    run = tmp_path / "run" / "robust"
    first, second, third = (checkpoints.verify(checkpoints.folder_for(run, epoch)) for epoch in (1, 2, 3))
    weights = [load_file(one.judged) for one in (first, second, third)]
    assert all(torch.equal(one, weights[1][name]) for name, one in weights[0].items())
    assert any(not torch.equal(one, weights[2][name]) for name, one in weights[0].items())
    assert second.step == 2 * first.step and third.step == 3 * first.step, "the schedule goes on"
