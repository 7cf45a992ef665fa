"""What becomes of image files from outside: what Pillow reads is read, as it is seen, and the rest is told."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distrib.data.packing import prepare
from distrib.data.source import Folder
from distrib.errors import DataError

RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
QUARTERS = np.array([[RED, GREEN], [BLUE, YELLOW]], np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of two grey images each, in both parts, all different."""
    for number in range(8):
        folder = tmp_path / "images" / ("train" if number < 4 else "test") / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, number, number)).save(folder / f"{number}.png")
    return tmp_path / "images"


def folder(root: Path, **fields: object) -> Folder:
    return Folder.model_validate({"source": "folder", "root": str(root), "validation": 0.5} | fields)


def pixels(root: Path, name: str, **fields: object) -> np.ndarray:
    """The first image of the train part's class ``cat``, which is ``name``."""
    return folder(root, **fields).open("train")[0][0]


def said(root: Path, tmp_path: Path) -> str:
    lines: list[str] = []
    prepare(folder(root, store=str(tmp_path / "store")), "memory", {}, "", lines.append)
    return next(line for line in lines if line.startswith(f"data: {root}/train: "))


@pytest.mark.parametrize("ending", ["jfif", "JPG", "jpe", "gif", "avif", "jp2", "bmp", "tga", "qoi"])
def test_what_pillow_reads_is_read(root: Path, ending: str):
    kind = {"jfif": "jpeg", "JPG": "jpeg", "jpe": "jpeg", "jp2": "jpeg2000"}.get(ending, ending)
    for number in range(2):
        Image.new("RGB", (4, 4), (200, 200, 200)).save(root / "train" / "cat" / f"0{number}.{ending}", kind)
    samples = folder(root).open("train")
    assert len(samples) == 6 and samples.labels.tolist() == [0] * 4 + [1] * 2
    assert np.abs(samples[0][0].astype(int) - 200).max() <= 3


def test_what_is_left_out_is_told_and_hidden_folders_are_no_class(root: Path, tmp_path: Path):
    (root / "train" / ".ipynb_checkpoints").mkdir()
    Image.new("RGB", (4, 4)).save(root / "train" / ".ipynb_checkpoints" / "1-checkpoint.png")
    Image.new("RGB", (4, 4)).save(root / "train" / "cat" / "._1.png")
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    (root / "train" / "cat" / "more").mkdir()
    Image.new("RGB", (4, 4), (9, 9, 9)).save(root / "train" / "cat" / "more" / "1.png")
    (root / "train" / "cat" / "more" / "drawing.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    (root / "train" / "readme").write_text("no image")
    assert folder(root).open("train").classes == ("cat", "dog")
    assert said(root, tmp_path) == (
        f"data: {root}/train: 5 images; left out: 2 hidden, 1 outside the class folders, 1 of a kind that is not read "
        "(.eps), 1 of a kind that is not read (.txt)"
    )


def test_a_name_that_lies_never_starts_another_program(root: Path):
    """Pillow gives PostScript to Ghostscript, whatever the file's name."""
    (root / "train" / "cat" / "0.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n")
    with pytest.raises(DataError, match=r"cat/0\.png: cannot be read as an image \(cannot identify"):
        folder(root).open("train")


@pytest.mark.parametrize(
    ("orientation", "seen"),
    [
        (1, [[RED, GREEN], [BLUE, YELLOW]]),
        (2, [[GREEN, RED], [YELLOW, BLUE]]),
        (3, [[YELLOW, BLUE], [GREEN, RED]]),
        (4, [[BLUE, YELLOW], [RED, GREEN]]),
        (5, [[RED, BLUE], [GREEN, YELLOW]]),
        (6, [[BLUE, RED], [YELLOW, GREEN]]),
        (7, [[YELLOW, GREEN], [BLUE, RED]]),
        (8, [[GREEN, YELLOW], [RED, BLUE]]),
        (9, [[RED, GREEN], [BLUE, YELLOW]]),
    ],
)
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_images_are_turned_as_the_camera_was_held(root: Path, orientation: int, seen: list, kind: str):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(QUARTERS).resize((4, 4), Image.Resampling.NEAREST).save(
        root / "train" / "cat" / f"0.{kind}", exif=exif
    )
    assert pixels(root, "0")[::2, ::2].tolist() == np.array(seen).tolist()


def test_damaged_exif_is_no_reason_to_refuse_an_image(root: Path):
    Image.fromarray(QUARTERS).resize((4, 4)).save(
        root / "train" / "cat" / "0.png", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff"
    )
    assert pixels(root, "0").shape == (4, 4, 3)


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_what_lies_under_transparency_is_not_seen(root: Path, mode: str, grey: bool):
    """The hidden colour of a cut-out gave its class away."""
    for number, hidden in enumerate((10, 240)):
        picture = Image.new("RGBA", (4, 4), (hidden, hidden, hidden, 0))
        picture.putpixel((0, 0), (100, 100, 100, 255))
        path = root / "train" / "cat" / f"0{number}.png"
        if mode == "P":
            shown = Image.new("P", (4, 4), 1)
            shown.putpalette([100, 100, 100, hidden, hidden, hidden])
            shown.putpixel((0, 0), 0)
            shown.save(path, transparency=1)
        elif mode == "RGB":
            picture.convert("RGB").save(path, transparency=(hidden,) * 3)
        else:
            picture.convert(mode).save(path)
        image = folder(root, grey=grey).open("train")[number][0]
        assert (image[0, 0] == 100).all() and (image[1:] == 255).all()


def test_half_of_a_colour_is_half_white_and_opaque_images_stay_as_they_are(root: Path):
    Image.new("RGBA", (4, 4), (0, 0, 0, 128)).save(root / "train" / "cat" / "00.png")
    opaque = np.random.default_rng(0).integers(0, 256, size=(4, 4, 4), dtype=np.uint8)
    opaque[..., 3] = 255
    Image.fromarray(opaque).save(root / "train" / "cat" / "01.png")
    samples = folder(root).open("train")
    assert (np.abs(samples[0][0].astype(int) - 127) <= 1).all()
    assert np.array_equal(samples[1][0], opaque[..., :3])


def test_what_was_done_is_told_once_with_the_number_of_files(root: Path, tmp_path: Path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, GREEN)]
    frames[0].save(root / "train" / "cat" / "0.gif", save_all=True, append_images=frames[1:])
    Image.new("RGB", (4, 4), BLUE).save(root / "train" / "cat" / "00.gif")
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(2):
        Image.new("RGB", (4, 4), (50, number, 0)).save(root / "train" / "dog" / f"0{number}.png", exif=exif)
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(root / "train" / "dog" / "000.png")
    assert pixels(root, "0.gif").tolist() == np.full((4, 4, 3), RED).tolist()
    assert said(root, tmp_path) == (
        f"data: {root}/train: 9 images; 1 of several frames the first taken; 2 turned upright; 1 with transparency put "
        "on white"
    )


# Bounds, and names and files of every kind


def test_of_a_strip_only_what_is_kept_is_computed(root: Path, monkeypatch: pytest.MonkeyPatch):
    """1 x 9000 pixels became 224 x 2,016,000 on the way to 224 x 224: 2.7 GiB."""
    resize = Image.Image.resize

    def bounded(self: Image.Image, size: tuple[int, int], *rest: object, **more: object) -> Image.Image:
        assert size[0] * size[1] < 2**24, f"an image of {size} pixels on the way"
        return resize(self, size, *rest, **more)  # pyright: ignore

    monkeypatch.setattr(Image.Image, "resize", bounded)
    ramp = np.repeat(np.linspace(0, 255, 9000).astype(np.uint8)[:, None], 1, axis=1)
    Image.fromarray(ramp).save(root / "train" / "cat" / "0.png")
    image = pixels(root, "0", size=224)
    assert image.shape == (224, 224, 3) and (np.abs(image.astype(int) - 127) <= 1).all()  # the middle pixel


def test_a_strip_is_cut_as_any_other_image(root: Path):
    """Resized whole, then cut, to one grey level."""
    draw = np.random.default_rng(0)
    for height, width in ((9, 300), (300, 9), (5, 81), (64, 1100)):
        strip = Image.fromarray(draw.integers(0, 256, size=(height, width, 3), dtype=np.uint8))
        strip.save(root / "train" / "cat" / "0.png")
        scale = 32 / min(strip.size)
        whole = strip.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
        left, top = (whole.width - 32) // 2, (whole.height - 32) // 2
        seen = np.asarray(whole.crop((left, top, left + 32, top + 32))).astype(int)
        assert np.abs(pixels(root, "0", size=32) - seen).max() <= 1


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(root: Path):
    Image.new("1", (12_000, 8_000)).save(root / "train" / "cat" / "0.png")
    with pytest.raises(DataError, match=r"cat/0\.png: cannot be read as an image \(Image size \(96000000 pixels\)"):
        folder(root, size=32).open("train")


def test_a_file_whose_name_is_not_utf8_is_an_image_like_any_other(root: Path, tmp_path: Path):
    path = os.fsencode(root / "train" / "cat") + b"/0\xff.png"
    Image.new("RGB", (4, 4), RED).save(root / "x.png")
    os.rename(root / "x.png", path)
    assert said(root, tmp_path) == f"data: {root}/train: 5 images"
    with open(path, "wb") as file:
        file.write(b"no image")
    with pytest.raises(DataError, match=r"cat/0\\xff\.png: cannot be read") as raised:
        folder(root).open("train")
    str(raised.value).encode()  # it can be printed


def test_a_class_whose_name_is_not_utf8_is_refused(root: Path):
    os.rename(root / "train" / "cat", os.fsencode(root / "train") + b"/c\xe4t")
    with pytest.raises(DataError, match=r"data\.root: .*train/c\\xe4t: the name is not UTF-8; give the class another"):
        folder(root).open("train")


@pytest.mark.timeout(60)
def test_a_fifo_is_left_out_and_not_waited_for(root: Path, tmp_path: Path):
    os.mkfifo(root / "train" / "cat" / "x.png")
    assert said(root, tmp_path) == f"data: {root}/train: 4 images; left out: 1 no regular files"


def test_links_are_followed_but_not_in_a_circle_nor_to_nothing(root: Path, tmp_path: Path):
    (root / "train" / "cat" / "all").symlink_to(root / "train")
    (root / "train" / "cat" / "more").symlink_to(root / "train" / "dog")
    samples = folder(root).open("train")
    assert sorted(int(samples[i][0][0, 0, 0]) for i in range(len(samples))) == [0, 0, 1, 2, 2, 3]
    assert "left out: 1 links to a folder above them" in said(root, tmp_path)
    (root / "train" / "cat" / "0.png").symlink_to(root / "nowhere.png")
    with pytest.raises(DataError, match=r"cat/0\.png: a link to nothing; mend or remove it"):
        folder(root).open("train")
