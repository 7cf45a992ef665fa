"""Packed data copied to a machine's own disk: once, whole, and what the cards say."""

import concurrent.futures
import shutil
from pathlib import Path

import pytest

from distrib.data.beton import open_split
from distrib.data.split import SPLITS
from distrib.data.stage import staged
from distrib.errors import DataError


@pytest.fixture
def data(digits: Path, tmp_path: Path) -> Path:
    """A copy of the packed digits that a test may spoil."""
    return Path(shutil.copytree(digits, tmp_path / "shared" / digits.name))


def test_without_a_stage_the_data_are_read_where_they_are(data: Path):
    assert staged(data, None) == data


def test_a_copy_is_made_once_and_is_what_the_cards_say(data: Path, tmp_path: Path):
    copy = staged(data, str(tmp_path / "local"))
    assert copy == tmp_path / "local" / data.name
    assert sorted(path.name for path in copy.iterdir()) == sorted(path.name for path in data.iterdir())
    for split in SPLITS:
        assert open_split(copy, split, "evaluation").verify().card == open_split(data, split, "evaluation").card
    before = {path: path.stat().st_mtime_ns for path in copy.iterdir()}
    assert staged(data, str(tmp_path / "local")) == copy
    assert {path: path.stat().st_mtime_ns for path in copy.iterdir()} == before


def test_a_copy_of_other_data_is_replaced(data: Path, tmp_path: Path):
    copy = staged(data, str(tmp_path / "local"))
    card = copy / "train.json"
    card.write_text(card.read_text().replace(open_split(copy, "train", "evaluation").card.sha256, "0" * 64))
    assert staged(data, str(tmp_path / "local")) == copy
    assert open_split(copy, "train", "evaluation").card == open_split(data, "train", "evaluation").card


@pytest.mark.parametrize("gone", ["test.json", "train", "short"])
def test_a_damaged_copy_is_made_anew(data: Path, tmp_path: Path, gone: str):
    copy = staged(data, str(tmp_path / "local"))
    packed = open_split(copy, "train", "evaluation").path
    (tmp_path / "local" / f".{data.name}-killed").mkdir()
    match gone:
        case "test.json":
            (copy / gone).unlink()
        case "train":
            packed.unlink()
        case _:
            packed.write_bytes(packed.read_bytes()[:-1])
    assert staged(data, str(tmp_path / "local")) == copy
    for split in SPLITS:
        open_split(copy, split, "evaluation").verify()
    assert [path.name for path in (tmp_path / "local").iterdir() if path.is_dir()] == [data.name], "swept"


def test_many_workers_of_one_machine_make_one_copy(data: Path, tmp_path: Path):
    with concurrent.futures.ProcessPoolExecutor(4) as pool:
        found = set(pool.map(staged, [data] * 8, [str(tmp_path / "local")] * 8))
    assert found == {tmp_path / "local" / data.name}
    assert [path.name for path in (tmp_path / "local").iterdir() if path.is_dir()] == [data.name], "nothing aside"


def test_spoiled_data_are_not_taken_and_leave_nothing(data: Path, tmp_path: Path):
    spoiled = open_split(data, "test", "evaluation").path
    spoiled.write_bytes(spoiled.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match="sha256"):
        staged(data, str(tmp_path / "local"))
    assert not any(path.is_dir() for path in (tmp_path / "local").iterdir())


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_stage_that_cannot_be_is_named(data: Path, tmp_path: Path, place: str):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cluster\.stage: .* cannot be copied to .*name a folder"):
        staged(data, str(tmp_path / place))


def test_data_that_are_not_seen_from_here_are_named(tmp_path: Path):
    with pytest.raises(DataError, match="there is no card"):
        staged(tmp_path / "nowhere", str(tmp_path / "local"))
