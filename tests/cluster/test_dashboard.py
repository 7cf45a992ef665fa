"""A dashboard's address and token, as a person names them."""

import os
from pathlib import Path

import pytest

from distrib.cluster.dashboard import dashboard_token, dashboard_url
from distrib.errors import JobError


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("head:8265", "http://head:8265"),
        ("http://head:8265/", "http://head:8265"),
        ("https://ray.example.com", "https://ray.example.com"),
    ],
)
def test_an_address_is_a_url_or_a_host_and_a_port(address: str, url: str):
    assert dashboard_url(address) == url


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("head", "--address head: name the cluster's dashboard"),
        ("ray://head:10001", "--address ray://head:10001: name the cluster's dashboard"),
        ("http://me:secret@head:8265", "set RAY_AUTH_TOKEN instead"),
    ],
)
def test_what_is_no_dashboard_is_refused_and_no_password_shown(address: str, told: str):
    with pytest.raises(JobError) as caught:
        dashboard_url(address)
    assert told in str(caught.value) and "secret" not in str(caught.value)


@pytest.mark.parametrize("token", ["secret", None])
def test_a_user_without_a_home_has_the_token_of_the_variable(token: str | None, monkeypatch: pytest.MonkeyPatch):
    """As a container's user that has no entry in passwd."""

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr(os, "environ", {"RAY_AUTH_TOKEN": token} if token else {})
    assert dashboard_token() == token
