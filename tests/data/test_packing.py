"""distrib.data.packing: packed once, reused, and never half-written."""

import hashlib
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from packs import cards, everything, listing, pack

from distrib.data import packing as packing_module
from distrib.data.beton import DataCard, open_split
from distrib.data.loader import FfcvReader, MemoryReader
from distrib.data.packing import Packing, folder_of
from distrib.data.samples import Samples
from distrib.data.source import DataSource, Folder
from distrib.data.split import SPLITS, Split, stratified
from distrib.errors import DataError

Pictures = Callable[..., Path]
Sources = Callable[..., DataSource]


def expected(data: DataSource) -> dict[Split, tuple[Samples, np.ndarray]]:
    """What each split holds: samples of the source, and which of them (where there is no limit)."""
    whole, test = data.open("train"), data.open("test")
    train, validation = stratified(whole.labels, data.validation, data.split_seed)
    return {"train": (whole, train), "validation": (whole, validation), "test": (test, np.arange(len(test)))}


# What is packed


def test_three_splits_with_their_cards(tmp_path: Path, digits_source: Sources, packing: Packing):
    data = digits_source(tmp_path, validation=0.2)
    said: list[str] = []
    folder = pack(data, packing, said)
    suffix = "beton" if packing == "ffcv" else "safetensors"
    assert folder == folder_of(data) and folder.parent == tmp_path
    assert {path.name for path in folder.iterdir()} == {f"{s}.{kind}" for s in SPLITS for kind in (suffix, "json")}
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    found = cards(folder)
    assert {split: card.count for split, card in found.items()} == {"train": 240, "validation": 60, "test": 450}
    for split, card in found.items():
        path = folder / card.file
        assert card.split == split and card.file == f"{split}.{suffix}"
        assert card.classes == tuple("0123456789") and card.image == (8, 8, 1) and card.encoding == "array"
        assert card.size_bytes == path.stat().st_size
        assert card.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert card.job == {"kind": "prepare"} and card.job_digest == "a digest"
        assert DataCard.model_validate_json(card.model_dump_json()) == card
    assert len(said) == 3 and all(split in text for split, text in zip(SPLITS, said, strict=True))


def test_of_two_who_pack_the_same_data_at_once_one_does(
    tmp_path: Path, digits_source: Sources, monkeypatch: pytest.MonkeyPatch
):
    """The other one waits, and takes what is there: to pack anew would pull it away under a training."""
    data, both, said, found = digits_source(tmp_path), threading.Barrier(2), [], []
    cut = packing_module.split_samples

    def together(source: DataSource) -> dict[Split, Samples]:
        both.wait(timeout=60)
        return cut(source)

    monkeypatch.setattr(packing_module, "split_samples", together)
    packers = [threading.Thread(target=lambda: found.append(pack(data, "memory", said))) for _ in range(2)]
    for one in packers:
        one.start()
    for one in packers:
        one.join(timeout=60)
    assert found == [folder_of(data)] * 2 and [path.name for path in tmp_path.iterdir()] == [found[0].name]
    assert sum(" images " in text for text in said) == 3 and sum("already prepared" in text for text in said) == 1
    assert not any("anew" in text for text in said)


def test_the_numbers_on_a_card_are_those_of_its_pixels(digits: Path):
    found = cards(digits)
    for split, card in found.items():
        pixels, labels = everything(MemoryReader(open_split(digits, split, "evaluation")), card.count)
        seen = hashlib.sha256()
        for image, label in zip(pixels, labels, strict=True):
            seen.update(image.tobytes() + int(label).to_bytes(8, "little"))
        assert card.content_sha256 == seen.hexdigest()
        if split == "train":
            mean, std = (pixels / 255).mean(), (pixels / 255).std()
    for card in found.values():  # all of the train split: a model is normalised by what it is trained on
        assert card.mean == pytest.approx((mean,)) and card.std == pytest.approx((std,))


def test_train_and_validation_tile_the_train_part_and_every_class_alike(
    tmp_path: Path, digits_source: Sources, packing: Packing
):
    data = digits_source(tmp_path, limit=None, validation=0.1)
    folder = pack(data, packing)
    parts = {}
    for split, card in cards(folder).items():
        reader = MemoryReader(open_split(folder, split, "evaluation"))
        parts[split] = everything(reader, card.count)
        samples, chosen = expected(data)[split]
        pixels, labels = parts[split]
        assert np.array_equal(labels, samples.labels[chosen])
        assert all(np.array_equal(pixels[place], samples[i][0]) for place, i in enumerate(chosen))
    whole = data.open("train")
    found = Counter(
        (image.tobytes(), int(label))
        for split in ("train", "validation")
        for image, label in zip(*parts[split], strict=True)
    )
    assert found == Counter((whole[i][0].tobytes(), whole[i][1]) for i in range(len(whole)))
    held, all_of = np.bincount(parts["validation"][1]), np.bincount(whole.labels)
    assert (np.abs(held - 0.1 * all_of) <= 0.5).all()


def test_a_limit_takes_the_same_share_of_every_class_and_leaves_the_test_part(tmp_path: Path, digits_source: Sources):
    small = cards(pack(digits_source(tmp_path, limit=100, validation=0.3)))
    assert abs(small["train"].count + small["validation"].count - 100) <= 5  # rounded class by class
    assert small["test"].count == 450
    assert len(list(tmp_path.iterdir())) == 1
    pack(digits_source(tmp_path, limit=110, validation=0.3))
    assert len(list(tmp_path.iterdir())) == 2  # another content, another folder


def test_two_preparations_are_equal_to_the_byte(tmp_path: Path, digits_source: Sources, packing: Packing):
    """So a beton's digest says what it is, on whichever machine it was packed."""
    first, second = (cards(pack(digits_source(tmp_path / name), packing)) for name in ("a", "b"))
    for split in SPLITS:
        assert first[split].content_sha256 == second[split].content_sha256
        assert first[split].sha256 == second[split].sha256


def test_the_content_is_the_same_however_it_is_packed(digits: Path, digits_beton: Path):
    one, other = cards(digits), cards(digits_beton)
    for split in SPLITS:
        assert one[split].content_sha256 == other[split].content_sha256
        assert one[split].sha256 != other[split].sha256
        assert (one[split].mean, one[split].std) == (other[split].mean, other[split].std)
    assert len({card.content_sha256 for card in one.values()}) == 3


def test_the_folder_depends_on_the_content_and_not_on_the_place(tmp_path: Path, digits_source: Sources):
    first = folder_of(digits_source(tmp_path))
    assert folder_of(digits_source(tmp_path / "x")).name == first.name
    for other in ({"limit": 200}, {"validation": 0.2}, {"split_seed": 1}, {"encoding": "raw"}):
        assert folder_of(digits_source(tmp_path, **other)).name != first.name
    one, other = (Folder(source="folder", root=root, store=str(tmp_path)) for root in ("cats", "dogs"))
    assert folder_of(one) != folder_of(other)  # there the place is what says which images they are


# RGB


ENCODINGS = {
    "small": ({"size": 8}, ("array", "array", "array")),
    "small as jpeg": ({"size": 8, "encoding": "jpeg"}, ("rgb-jpeg", "array", "array")),
    "large": ({"size": 160}, ("rgb-jpeg", "rgb-raw", "rgb-raw")),
    "large as raw": ({"size": 160, "encoding": "raw"}, ("rgb-raw", "rgb-raw", "rgb-raw")),
    "grey and large": ({"size": 160, "grey": True}, ("array", "array", "array")),
}


@pytest.mark.usefixtures("with_ffcv")
@pytest.mark.parametrize(("fields", "encodings"), ENCODINGS.values(), ids=ENCODINGS)
def test_only_training_images_are_ever_packed_as_jpeg(
    tmp_path: Path, pictures: Pictures, fields: dict, encodings: tuple[str, ...]
):
    """What is measured on (validation, test) is the image as it is."""
    root = pictures(tmp_path / "images", [(170, 180), (160, 160)])
    data = Folder(source="folder", root=str(root), store=str(tmp_path / "store"), validation=0.5, **fields)
    found = cards(pack(data, "ffcv"))
    assert tuple(found[split].encoding for split in SPLITS) == encodings
    assert {card.image for card in found.values()} == {(fields["size"], fields["size"], 1 if fields.get("grey") else 3)}
    assert {card.classes for card in found.values()} == {("cat", "dog")}


@pytest.mark.usefixtures("with_ffcv")
@pytest.mark.parametrize(("size", "few"), [(8, 0), (160, 0), (160, 9)])
def test_pixels_come_back_as_they_were(tmp_path: Path, pictures: Pictures, size: int, few: int):
    root = pictures(tmp_path / "images", [(170, 180), (160, 200), (200, 160)])
    data = Folder(source="folder", root=str(root), store=str(tmp_path / "store"), validation=0.34, size=size)
    folder = pack(data, "ffcv")
    for split, (samples, chosen) in expected(data).items():
        beton = open_split(folder, split, "evaluation")
        pixels, labels = everything(FfcvReader(beton, few=few), beton.card.count)
        source = np.stack([samples[i][0] for i in chosen])
        assert labels.tolist() == samples.labels[chosen].tolist()
        difference = np.abs(pixels.astype(int) - source.astype(int))
        if beton.card.encoding == "rgb-jpeg":  # lossy, but smooth images hardly change
            assert 0 < difference.mean() < 3
        else:
            assert difference.max() == 0


def test_images_to_train_on_are_stored_larger_and_all_others_as_their_centre(
    tmp_path: Path, pictures: Pictures, packing: Packing
):
    root = pictures(tmp_path / "images", [(40, 30)] * 8)
    fields = {"root": str(root), "store": str(tmp_path / "store"), "validation": 0.25, "encoding": "raw"}
    data = Folder(source="folder", size=16, resize=20, **fields)
    folder = pack(data, packing)
    assert [(card.image, card.stored) for split in SPLITS for card in [cards(folder)[split]]] == [
        ((16, 16, 3), (20, 20)), ((16, 16, 3), None), ((16, 16, 3), None)
    ]  # fmt: skip
    whole = Folder(source="folder", size=20, **fields)
    larger = pack(whole, packing)
    for split in SPLITS:
        held, source = (MemoryReader(open_split(one, split, "evaluation")).image for one in (folder, larger))
        assert torch.equal(held, source if split == "train" else source[:, 2:18, 2:18])
    # a place of the store that was made before there was such a thing is still that of the same images
    assert larger == folder_of(whole) != folder


def test_jpeg_is_refused_for_grey_images(tmp_path: Path, digits_source: Sources):
    with pytest.raises(DataError, match=r"data\.encoding: jpeg is for RGB.*1 channel"):
        pack(digits_source(tmp_path, encoding="jpeg"))
    assert list(tmp_path.iterdir()) == []


# Reused


def test_what_is_there_is_used_again(tmp_path: Path, digits_source: Sources, packing: Packing, prepared: Path):
    shutil.copytree(prepared, tmp_path / prepared.name)
    before = listing(tmp_path)
    said: list[str] = []
    assert pack(digits_source(tmp_path), packing, said) == tmp_path / prepared.name
    assert listing(tmp_path) == before
    assert len(said) == 1 and "already prepared" in said[0]


def test_a_folder_whose_files_changed_is_packed_beside_what_runs_may_read(tmp_path: Path, pictures: Pictures):
    root = pictures(tmp_path / "images", [(8, 8)] * 4)
    data = Folder(source="folder", root=str(root), store=str(tmp_path / "store"), validation=0.25)
    before = pack(data)
    first, was = cards(before), listing(before)
    shutil.copy(root / "train/cat/000.png", root / "train/cat/004.png")
    said: list[str] = []
    folder = pack(data, said=said)
    second = cards(folder)
    assert second["train"].count == first["train"].count + 1
    assert second["train"].content_sha256 != first["train"].content_sha256
    assert folder != before and listing(before) == was  # a run that began with them may go on
    assert any("changed" in text and str(before) in text for text in said)
    (root / "train/cat/004.png").unlink()
    assert pack(data) == before  # put back
    shutil.copy(root / "train/cat/000.png", root / "train/cat/004.png")
    assert pack(data) == folder and len(list((tmp_path / "store").iterdir())) == 2
    shutil.rmtree(root)  # on a machine that has only the betons: the last ones
    assert pack(data) == folder


@pytest.mark.usefixtures("with_ffcv")
def test_each_packing_is_prepared_anew_only_where_it_must_be(
    tmp_path: Path, digits: Path, digits_beton: Path, digits_source: Sources, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(digits_beton, tmp_path / digits_beton.name)
    before = listing(tmp_path)
    pack(digits_source(tmp_path), "memory")  # the in-memory loader reads betons too
    assert listing(tmp_path) == before
    monkeypatch.setattr(packing_module, "ffcv_usable", lambda: False)
    folder = pack(digits_source(tmp_path), "memory")  # unless ffcv is not there
    assert cards(folder) == {
        split: card.model_copy(update={"job": {"kind": "prepare"}, "job_digest": "a digest"})
        for split, card in cards(digits).items()
    }
    monkeypatch.undo()
    folder = pack(digits_source(tmp_path), "ffcv")
    assert all(card.file.endswith(".beton") for card in cards(folder).values())


# Nothing half-written


def corrupt(root: Path) -> None:
    (root / "train/dog/001.png").write_bytes(b"no picture")


def corrupt_test(root: Path) -> None:
    (root / "test/dog/001.png").write_bytes(b"no picture")


def another_class(root: Path) -> None:
    (root / "test/dog").rename(root / "test/fox")


def one_class_more(root: Path) -> None:
    shutil.copytree(root / "test/dog", root / "test/fox")


def another_size(root: Path) -> None:
    from PIL import Image

    Image.new("RGB", (9, 9)).save(root / "train/dog/001.png")


def no_test_part(root: Path) -> None:
    shutil.rmtree(root / "test")


FAILURES = {
    corrupt: "001.png",
    corrupt_test: "001.png",
    another_class: "fox",
    one_class_more: "fox",
    another_size: r"\[9, 9, 3\]",
    no_test_part: "there is no folder",
}


@pytest.mark.parametrize(("spoil", "phrase"), FAILURES.items(), ids=[spoil.__name__ for spoil in FAILURES])
def test_a_failing_preparation_leaves_everything_as_it_was(
    tmp_path: Path, pictures: Pictures, packing: Packing, spoil: Callable[[Path], None], phrase: str
):
    """Both where nothing was prepared yet, and where betons of the files before are there."""
    root = pictures(tmp_path / "images", [(8, 8)] * 3)
    store = tmp_path / "store"
    store.mkdir()
    data = Folder(source="folder", root=str(root), store=str(store), validation=0.34)
    whole = shutil.copytree(root, tmp_path / "whole")
    spoil(root)
    with pytest.raises(DataError, match=phrase):
        pack(data, packing)
    assert list(store.iterdir()) == []
    shutil.rmtree(root)
    shutil.copytree(whole, root)
    folder = pack(data, packing)
    before = listing(store)
    spoil(root)
    with pytest.raises(DataError, match=phrase):
        pack(data, packing)
    assert listing(store) == before and list(store.iterdir()) == [folder]


@pytest.mark.parametrize("place", ["write_tensors", "os.rename", "file_sha256"])
def test_an_interrupted_preparation_leaves_nothing(
    tmp_path: Path, digits_source: Sources, monkeypatch: pytest.MonkeyPatch, place: str
):
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    module, _, name = place.rpartition(".")
    with monkeypatch.context() as patch:
        patch.setattr(getattr(packing_module, module) if module else packing_module, name, fail)
        with pytest.raises(KeyboardInterrupt):
            pack(digits_source(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert cards(pack(digits_source(tmp_path)))


def test_a_disk_that_is_too_full_is_refused_before_anything_is_written(
    tmp_path: Path, digits_source: Sources, monkeypatch: pytest.MonkeyPatch
):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(packing_module.shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    with pytest.raises(DataError, match=r"data\.store: .* has 1 MiB free"):
        pack(digits_source(tmp_path / "store"))
    assert list(tmp_path.rglob("*")) == [tmp_path / "store"]


def test_a_store_that_is_a_file_is_refused(tmp_path: Path, digits_source: Sources):
    (tmp_path / "store").write_text("a file")
    with pytest.raises(DataError, match=r"data\.store"):
        pack(digits_source(tmp_path / "store"))


def test_others_may_read_what_was_prepared(digits: Path):
    assert os.stat(digits).st_mode & 0o755 == 0o755
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in digits.iterdir())
