"""The dashboard of a Ray cluster elsewhere: its address, the token that opens it, a client of its Jobs API."""

import os
from pathlib import Path

from distrib.errors import JobError
from distrib.values import PASSWORD, sendable

REQUEST_SECONDS = 60
"""How long one answer is waited for."""


def dashboard_url(address: str) -> str:
    """The address as a URL: HOST:PORT is taken for http. Raises :class:`JobError` where it is no dashboard's."""
    if PASSWORD.match(address):
        raise JobError("--address: has a user, password or token in it, which is shown; set RAY_AUTH_TOKEN instead")
    if address.startswith(("http://", "https://")):
        return address.rstrip("/")
    if "://" in address or not address.rpartition(":")[2].isdigit():
        raise JobError(f"--address {address}: name the cluster's dashboard, such as http://HEAD:8265")
    return f"http://{address}"


def dashboard_token() -> str | None:
    """The token to show there, looked for as Ray does; None where there is none.

    Raises :class:`JobError` where it cannot be read or sent, without showing it.
    """
    path = None
    try:
        if os.environ.get("RAY_AUTH_TOKEN"):
            return sendable("RAY_AUTH_TOKEN", os.environ["RAY_AUTH_TOKEN"].strip())
        path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
        return sendable(str(path), path.read_text(encoding="latin-1").strip()) or None
    except ValueError as error:
        raise JobError(str(error)) from None
    except OSError as error:
        if "RAY_AUTH_TOKEN_PATH" in os.environ:
            raise JobError(f"RAY_AUTH_TOKEN_PATH: {path} cannot be read ({error.strerror})") from None
        return None
    except RuntimeError:  # this user has no home, so no file
        return None


def jobs_client(address: str, token: str | None):
    """Ray's client of the Jobs API at ``address``, which gives up on a server that says nothing."""
    from ray.job_submission import JobSubmissionClient

    class Bounded(JobSubmissionClient):
        """Ray's client waits for ever for a server that says nothing (2.60)."""

        def _do_request(self, method: str, endpoint: str, **rest):
            return super()._do_request(method, endpoint, timeout=REQUEST_SECONDS, **rest)

    return Bounded(address, headers={"Authorization": f"Bearer {token}"} if token else None)
