"""A network of another library that is asked for as if it were ours: whoever does is led there."""

import sys

import pytest
from documents import TRAIN, changed

from distrib.config.file import parse
from distrib.errors import JobError
from distrib.models.libraries import library_of


def test_the_library_that_has_the_network_is_told(monkeypatch: pytest.MonkeyPatch):
    assert library_of("resnet50") == " (torchvision has it: model: {arch: torchvision, name: resnet50})"
    assert library_of("convnext_atto") == " (timm has it: model: {arch: timm, name: convnext_atto})"
    assert library_of("nothing_of_that_name") == ""
    monkeypatch.setitem(sys.modules, "timm", None)
    assert library_of("convnext_atto") == ""


def test_a_job_that_names_it_as_ours_is_led_there():
    with pytest.raises(JobError, match=r"arch: .resnet50. is none of .*custom \(torchvision has it: model: \{"):
        parse(changed(TRAIN, {"model": {"arch": "resnet50"}}), [], "here")
    with pytest.raises(JobError, match=r"'smallcnn' is none of .* \(did you mean small_cnn\?\)"):
        parse(changed(TRAIN, {"model": {"arch": "smallcnn"}}), [], "here")
