"""What every source says: shares that leave something, what is missing, and when its files have changed."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from distrib.data.arrays import pack
from distrib.data.source import Digits, Folder


def digits(*shares: float, path: str = "more.npz") -> Digits:
    mix = [{"source": "arrays", "path": path, "share": share} for share in shares]
    return Digits.model_validate({"source": "digits", "mix": mix}, strict=False)


def test_what_is_mixed_in_leaves_some_of_every_batch():
    assert [one.share for one in digits(0.5, 0.4).mix] == [0.5, 0.4]
    with pytest.raises(ValidationError, match="mix: the shares leave nothing of every batch"):
        digits(0.5, 0.5)


def test_a_change_of_what_is_mixed_in_is_seen_and_its_absence_told(tmp_path: Path):
    file = tmp_path / "more.safetensors"
    assert (
        digits(0.5, path=str(file)).missing() == f"data.mix: {file} is not there; put the images there, or name others"
    )
    seen = [digits().fingerprint(), digits(0.5, path=str(file)).fingerprint()]
    for level in (0, 9):
        pack(file, np.full((20, 8, 8), level, np.uint8), np.arange(20) % 10)
        seen.append(digits(0.5, path=str(file)).fingerprint())
    assert seen[:2] == ["", ""] and len(set(seen[2:])) == 2 and digits(0.5, path=str(file)).missing() == ""


def test_networks_see_all_of_an_image_unless_more_of_it_is_stored():
    fields = {"source": "folder", "root": "images", "size": 24}
    assert digits().cut is None and Folder.model_validate(fields).cut is None
    assert Folder.model_validate(fields | {"resize": 28}).cut == 24
