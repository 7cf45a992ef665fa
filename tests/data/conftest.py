"""The digits, packed in each way."""

from pathlib import Path

import pytest

from distrib.data.packing import Packing
from distrib.data.writer import ffcv_usable


@pytest.fixture(scope="session")
def with_ffcv() -> None:
    if not ffcv_usable():
        pytest.skip("ffcv cannot be imported here")


@pytest.fixture(params=["memory", "ffcv"])
def packing(request: pytest.FixtureRequest) -> Packing:
    """The test runs for both."""
    if request.param == "ffcv":
        request.getfixturevalue("with_ffcv")
    return request.param


@pytest.fixture
def prepared(packing: Packing, request: pytest.FixtureRequest) -> Path:
    """The digits as they are packed for it; to be read only."""
    return request.getfixturevalue("digits" if packing == "memory" else "digits_beton")
