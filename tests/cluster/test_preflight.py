"""What a machine of a cluster is refused for before anything is trained on it. tests/end_to_end asks real machines."""

from pathlib import Path

import pytest

from distrib.cluster.preflight import Sights, check_node, check_nodes
from distrib.cluster.resources import Node, Resources
from distrib.config.cluster import Cluster
from distrib.data.beton import open_split
from distrib.data.split import SPLITS, Split
from distrib.errors import InputError

Cards = dict[Split, str]


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    """The folder that the driver has put its word into."""
    folder = tmp_path / "run" / ".probe-1"
    folder.mkdir(parents=True)
    (folder / "driver").write_text("word")
    return folder


@pytest.fixture
def cards(digits: Path) -> Cards:
    """The hashes of the data that the driver packed."""
    return {split: open_split(digits, split, "evaluation").card.sha256 for split in SPLITS}


def test_a_machine_that_sees_the_folder_and_the_data_says_so(probe: Path, digits: Path, cards: Cards, tmp_path: Path):
    stage = tmp_path / "stage"
    check_node("10.0.0.7", Sights(probe, "word", digits, cards, str(stage)))
    assert (probe / "10.0.0.7").read_text() == "word"
    assert list(stage.iterdir()), "its own copy of the data is made now"


@pytest.mark.parametrize("seen", [None, "another word"])
def test_another_folder_than_the_driver_s_is_refused(probe: Path, digits: Path, cards: Cards, seen: str | None):
    (probe / "driver").unlink()
    if seen is not None:
        (probe / "driver").write_text(seen)
    told = rf"^storage: {probe.parent} on node 10\.0\.0\.7 is not the folder that the driver has; .*--set storage="
    with pytest.raises(InputError, match=told):
        check_node("10.0.0.7", Sights(probe, "word", digits, cards, None))


def test_a_folder_that_cannot_be_written_to_is_refused(probe: Path, digits: Path, cards: Cards):
    (probe / "10.0.0.7").mkdir()
    with pytest.raises(InputError, match=r"^storage: "):
        check_node("10.0.0.7", Sights(probe, "word", digits, cards, None))


def test_other_data_than_the_driver_packed_are_refused(probe: Path, digits: Path, cards: Cards):
    with pytest.raises(InputError, match=r"^data\.store: on node 10\.0\.0\.7 .*other data than the driver packed"):
        check_node("10.0.0.7", Sights(probe, "word", digits, cards | {"test": "0" * 64}, None))
    with pytest.raises(InputError, match=r"^data\.store: on node 10\.0\.0\.7 .*name a folder that every machine sees"):
        check_node("10.0.0.7", Sights(probe, "word", probe, cards, None))


def test_on_this_machine_alone_there_is_nothing_to_prove(tmp_path: Path):
    """Neither Ray nor a folder is asked."""
    check_nodes(Resources((Node(2),), local=True), tmp_path / "none", tmp_path / "none", Cluster())
    assert list(tmp_path.iterdir()) == []
