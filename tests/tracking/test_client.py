"""What MLflow refuses, in words."""

import os

import pytest
import requests

from distrib.errors import DistribError, RegistryError, RunError
from distrib.tracking.client import address, connect, in_words

ANSWERS = [
    (401, "You are not authenticated.", RegistryError, r"refuses this user and password; set MLFLOW_TRACKING_USERNAME"),
    (403, "Permission denied", RegistryError, r"does not let this user do /api/x; set MLFLOW_TRACKING_USERNAME"),
    (403, "Invalid Host header - possible DNS rebinding", RegistryError, r"start it with --allowed-hosts"),
    (500, "the disk is full", RunError, r"MLflow failed: .*the disk is full"),
]


@pytest.mark.parametrize(("status", "body", "kind", "text"), ANSWERS)
def test_every_answer_has_a_cure(status: int, body: str, kind: type[DistribError], text: str):
    from mlflow.exceptions import RestException
    from mlflow.protos.databricks_pb2 import BAD_REQUEST, INTERNAL_ERROR, PERMISSION_DENIED, UNAUTHENTICATED, ErrorCode

    codes = {401: UNAUTHENTICATED, 403: PERMISSION_DENIED, 500: INTERNAL_ERROR, 400: BAD_REQUEST}
    message = f"API request to endpoint /api/x failed with error code {status} != 200. Response body: '{body}'"
    answer = {"error_code": ErrorCode.Name(codes[status]), "message": message}
    with pytest.raises(kind, match=text) as caught, in_words():
        raise RestException(answer)
    assert caught.value.exit_status == kind.exit_status and caught.value.__suppress_context__


def test_an_artifact_that_is_refused_is_told():
    """MLflow lets through what its own HTTP calls raise."""
    with pytest.raises(RunError, match="MLflow failed: 413 Client Error: too large"), in_words():
        raise requests.HTTPError("413 Client Error: too large")


def test_what_is_not_mlflows_is_left_alone():
    with pytest.raises(KeyError), in_words():
        raise KeyError("x")
    with pytest.raises(RegistryError, match="as it was"), in_words():
        raise RegistryError("as it was")


FILES = ("ssl_ca=ca.pem&ssl_cert=c.pem&ssl_key=k.pem", "ssl_key=k.pem", "ssl-key=k.pem", "sslkey=k.pem&sslcert=c.pem")
"""Of TLS, as databases name them: no passwords."""


@pytest.mark.parametrize(
    ("given", "kept", "login"),
    [
        ("http://ann:s%40cret@h:5000/x", "http://h:5000/x", ("ann", "s@cret")),
        ("http://ann:s@cr:et@h/", "http://h/", ("ann", "s@cr:et")),
        ("http://h:5000/a@b", "http://h:5000/a@b", None),
        ("postgresql://ann@h/runs", "postgresql://ann@h/runs", None),
        ("postgresql://h:5432/runs?user=me@azure", "postgresql://h:5432/runs?user=me@azure", None),
        ("sqlite:////a@b/c:d@e.db", "sqlite:////a@b/c:d@e.db", None),
        *((f"mysql+pymysql://u@h/db?{files}", f"mysql+pymysql://u@h/db?{files}", None) for files in FILES),
    ],
)
def test_an_address_is_shown_and_kept_without_its_password(
    given: str, kept: str, login: tuple[str, str] | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    if login is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "bob")
    assert address(None) == address(given) == kept
    found = tuple(os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "PASSWORD"))
    assert found == (login or (None, None))


@pytest.mark.parametrize(
    "given",
    [
        "postgresql+psycopg2://ann:se/cret@h/runs", "mysql://h/runs?user=a&password=secret",
        "mysql+pymysql://h/runs?user=a&passwd=secret", "mssql+pyodbc:///?odbc_connect=UID%3Da%3BPWD%3Dsecret",
        "https://secret@h", "https://secret:@h", "http://ann:se/cret@h", "http://ann:se/cret@h:5000/path",
        "mysql+pymysql://u@h/db?ssl_key=k.pem&api_key=secret", "mysql+pymysql://u@h/db?my_ssl_key=secret",
        "http://h:5000?token=secret", "http://ann:x@h/?api_key=secret", "http://h/?a=b&access_token=secret",
    ],
)  # fmt: skip
def test_other_passwords_are_not_taken_from_an_address(given: str):
    with pytest.raises(RegistryError, match="PGPASSWORD") as caught:
        address(given)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_USERNAME"])
@pytest.mark.parametrize("secret", ["secret\nline", "s\u00e9cret\u2713"], ids=["a line break", "a sign"])
def test_what_no_header_carries_is_refused_and_not_shown(name: str, secret: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "some")
    monkeypatch.setenv(name, secret)
    with pytest.raises(RegistryError, match=f"^{name}: has a line break") as caught:
        connect("http://127.0.0.1:9")
    assert "cret" not in str(caught.value)
