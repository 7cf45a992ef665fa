"""A CSV file says what the images of one folder are; what it says wrong is named by its line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from command import PREPARE
from PIL import Image
from pydantic import ValidationError

from distrib.cli import main
from distrib.data.beton import open_split
from distrib.data.labels import labelled
from distrib.data.packing import folder_of, prepare
from distrib.data.source import Folder
from distrib.data.survey import split_samples
from distrib.errors import DataError

COUNT = 20
"""Images 00.png to 19.png: the even ones are cats, and the last eight are tested on."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A flat folder of images, all different, and the file of their labels."""
    root = tmp_path / "images"
    root.mkdir()
    for number in range(COUNT):
        Image.new("RGB", (8, 8), (number * 10, 3, number)).save(root / f"{number:02d}.png")
    write(root, rows())
    return root


def rows(split: bool = True) -> list[str]:
    header = ["file,label,split" if split else "file,label"]
    parts = [",train" if number < 12 else ",test" for number in range(COUNT)]
    return header + [f"{n:02d}.png,{'dog' if n % 2 else 'cat'}{parts[n] if split else ''}" for n in range(COUNT)]


def write(root: Path, lines: list[str], ending: str = "\n", encoding: str = "utf-8") -> None:
    (root / "labels.csv").write_bytes(ending.join([*lines, ""]).encode(encoding))


def folder(root: Path, **fields: object) -> Folder:
    whole = {"source": "folder", "root": str(root), "labels": "labels.csv", "store": str(root.parent / "store")}
    return Folder.model_validate(whole | {"validation": 0.25} | fields)


def seen(data: Folder, part: str) -> list[tuple[int, str]]:
    """(the image's number, its class) of each image of a part."""
    samples = data.open(part)  # pyright: ignore
    return [(int(image[0, 0, 2]), samples.classes[label]) for image, label in (samples[i] for i in range(len(samples)))]


def test_the_column_split_parts_the_images(root: Path):
    expected = sorted((number, "dog" if number % 2 else "cat") for number in range(COUNT))
    assert sorted(seen(folder(root), "train")) == expected[:12] and sorted(seen(folder(root), "test")) == expected[12:]
    assert {split: len(part) for split, part in split_samples(folder(root)).items()} == {
        "train": 8, "validation": 4, "test": 8
    }  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_what_spreadsheets_write_is_read(root: Path, ending: str, encoding: str):
    """A mark at the beginning, other ends of lines, blanks, quotes, capitals, other columns, empty lines."""
    plain = seen(folder(root), "train")
    other = ["Label ,Note,FILE,Split", '"cat", "so, so",./00.png ,train', ",,,"]
    for row in rows()[2:]:
        name, label, split = row.split(",")
        other.append(f"{label},,{name},{split}")
    write(root, other, ending, encoding)
    assert seen(folder(root), "train") == plain


def test_the_order_of_the_rows_is_no_matter(root: Path):
    before = seen(folder(root), "train")
    header, *others = rows()
    write(root, [header, *reversed(others)])
    assert seen(folder(root), "train") == before


def test_without_the_column_a_share_of_every_class_is_drawn_as_of_class_folders(root: Path, tmp_path: Path):
    write(root, rows(split=False))
    data = folder(root, test_share=0.3)
    train, test = (seen(data, part) for part in ("train", "test"))
    assert (len(train), len(test)) == (14, 6) and [name for _, name in test] == ["cat"] * 3 + ["dog"] * 3
    assert len({*train, *test}) == COUNT and seen(folder(root, test_share=0.3, split_seed=5), "test") == test
    with pytest.raises(DataError, match=r"data\.test_share: is missing, and .*labels\.csv has no column split; set it"):
        folder(root).open("train")
    write(root, rows())
    with pytest.raises(DataError, match=r"data\.test_share: .*labels\.csv has a column split, which says the same; l"):
        data.open("train")
    with pytest.raises(
        ValidationError, match="labels: says which images are tested on; leave train_part and test_part"
    ):
        folder(root, test_part="val")


def test_folders_below_the_root_mean_nothing(root: Path):
    (root / "train").mkdir()
    (root / "00.png").rename(root / "train" / "00.png")
    write(root, [row.replace("00.png", "train/../train/00.png") for row in rows()])
    tree, test = labelled(root, root / "labels.csv")
    assert tree.classes == ("cat", "dog") and str(root / "train" / "00.png") in tree.paths
    assert test is not None and test.sum() == 8 and np.bincount(tree.labels).tolist() == [10, 10]


WRONG = {
    "no header": (1, "00.png,cat,train", "line 1: the header is '00.png,cat,train'; make the first line file,label or"),
    "semicolons": (
        1,
        "file;label",
        "line 1: the header is 'file;label'; make the first line file,label or file,label,",
    ),
    "a column twice": (1, "file,label,label", "line 1: the header names the column label twice; make the first line"),
    "few columns": (3, "01.png", "line 3: 1 columns, where the header has 3; put what holds a comma in double quotes"),
    "many columns": (3, "01.png,a,b,train", "line 3: 4 columns, where the header has 3; put what holds a comma"),
    "twice": (4, "./00.png,cat,train", "line 4: 00.png has a row already, line 2; delete one of the two"),
    "missing": (
        5,
        "x/03.png,dog,train",
        "line 5: there is no file x/03.png below {root}; put it there, or delete the ",
    ),
    "a folder": (5, "below.png,dog,train", "line 5: there is no file below.png below {root}; put it there"),
    "no image": (5, "notes.txt,dog,train", "line 5: notes.txt is of a kind that is not read; convert it, or delete th"),
    "no file": (5, ",dog,train", "line 5: the column file is empty; fill it in, or delete the row"),
    "no label": (6, "04.png, ,train", "line 6: 04.png has no label; fill it in, or delete the row"),
    "unknown split": (
        7,
        "05.png,dog,val",
        "line 7: the split 'val' is neither train nor test; write one of them (what ",
    ),
    "no split": (7, "05.png,dog,", "line 7: the split '' is neither train nor test; write one of them"),
    "absolute": (
        8,
        "/etc/06.png,cat,train",
        "line 8: /etc/06.png leads out of data.root; write the image's path below",
    ),
    "outside": (8, "a/../../06.png,cat,train", "line 8: a/../../06.png leads out of data.root; write the image's path"),
    "quotes": (9, '07.png,"dog,train', "line 21: it is no CSV (unexpected end of data); mend the quotes"),
}


@pytest.mark.parametrize(("line", "row", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_row_is_named_by_its_line(root: Path, line: int, row: str, words: str):
    (root / "below.png").mkdir()
    (root / "notes.txt").write_text("no image")
    lines = rows()
    lines[line - 1] = row
    write(root, lines)
    with pytest.raises(DataError) as caught:
        folder(root).open("train")
    assert str(caught.value).startswith(f"data.labels: {root / 'labels.csv'}, {words.replace('{root}', str(root))}")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_another_encoding_is_named_with_its_line(root: Path, encoding: str):
    lines = rows()
    lines[3] = "02.png,Bär,train"
    write(root, lines, encoding=encoding)
    with pytest.raises(
        DataError, match=rf"line {4 if encoding == 'latin-1' else 1}: it is not UTF-8; save the file as"
    ):
        folder(root).open("train")


def test_a_file_that_says_too_little_is_refused(root: Path):
    for text, words in (
        ("", "line 1: the header is ''"), ("file,label,split\n\n", "line 1: there are no rows below the header; add"),
    ):  # fmt: skip
        (root / "labels.csv").write_text(text)
        with pytest.raises(DataError, match=words):
            folder(root).open("train")
    write(root, [row for row in rows() if row[:2] not in ("03", "05")])
    with pytest.raises(
        DataError, match=r"labels\.csv has no row for 2 of the images below .*images, such as 03\.png; g"
    ):
        folder(root).open("train")
    write(root, [row.replace("dog,test", "dog,train") for row in rows()])
    with pytest.raises(DataError, match="no image of dog has the split test; give it some, or leave the class out"):
        folder(root).open("train")
    with pytest.raises(DataError, match=r"nowhere\.csv cannot be read \(No such file or directory\); name a CSV file"):
        folder(root, labels="nowhere.csv").open("train")
    with pytest.raises(DataError, match=r"data\.root: there is no folder .*; name the one that holds the images"):
        folder(root / "nowhere").open("train")


def test_an_edited_file_is_another_set_and_one_that_says_the_same_is_not(root: Path):
    said: list[str] = []
    pack = lambda: prepare(folder(root), "memory", {}, "", said.append)  # noqa: E731
    first = pack()
    assert pack() == first and said[-1].endswith("(already prepared)")
    write(root, [*rows()[:1], *reversed(rows()[1:])])
    assert pack() == first and said[-1] == f"data: {first} is taken: it holds the same images"
    write(root, [row.replace("01.png,dog", "01.png,cat") for row in rows()])
    assert folder_of(folder(root)) != first
    second = pack()
    counts = [sorted(np.bincount([0 if n == "cat" else 1 for _, n in seen(folder(root), "train")]))]
    assert second != first and counts == [[5, 7]]
    assert open_split(second, "train", "training").card.fingerprint == folder(root).fingerprint()


def test_what_is_left_out_is_told_once_and_the_file_itself_is_not(root: Path, pictures: Callable[..., Path]):
    (root / "notes.txt").write_text("no image")
    (root / "readme.csv").write_text("no image")
    said: list[str] = []
    prepare(folder(root), "memory", {}, "", said.append)
    assert [line for line in said if "left out" in line] == [
        f"data: {root}: 12 images; left out: 1 of a kind that is not read (.csv), 1 of a kind that is not read (.txt)"
    ]
    other = root.parent / "elsewhere.csv"
    (root / "labels.csv").rename(other)
    tree, _ = labelled(root, other)
    assert tree.left_out.total() == 2


def test_images_that_are_in_both_parts_under_two_names_are_refused(root: Path):
    for number in range(12, COUNT):
        (root / f"{number}.png").write_bytes((root / f"{number - 12:02d}.png").read_bytes())
    with pytest.raises(DataError, match="8 of 8 test images are equal, pixel for pixel, to images of the train part"):
        prepare(folder(root), "memory", {}, "", lambda text: None)


def test_a_dry_run_refuses_as_the_run_does(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(PREPARE | {"data": folder(root).model_dump(mode="json", exclude_defaults=True)}))
    assert main.main(["run", str(job), "--dry-run"]) == 0
    assert f"# data: would be prepared from {root} in" in capsys.readouterr().out
    write(root, [*rows(), "20.png,cat,train"])
    assert main.main(["run", str(job), "--dry-run"]) == 2
    planned = capsys.readouterr().err
    assert main.main(["run", str(job)]) == 2
    assert planned == capsys.readouterr().err and planned.count("\n") == 1
    assert planned.startswith(f"distrib: data.labels: {root / 'labels.csv'}, line 22: there is no file 20.png below")
