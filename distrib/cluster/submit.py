"""Jobs on a Ray cluster elsewhere, by Ray's Jobs API: hand one in, list them, follow one, stop one.

Ray keeps a submission id for ever, so a run NAME is submitted as NAME-1, and when that has ended (killed, lost, done)
as NAME-2, which goes on where NAME-1 was left: the run's folder is the same. While one lives, no second is taken.
Logs and states are asked for again and again, so a connection that is lost costs nothing but time.
"""

import logging
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import distrib
from distrib.cluster.dashboard import REQUEST_SECONDS, dashboard_token, dashboard_url, jobs_client
from distrib.cluster.local import SERVER
from distrib.cluster.resources import Node, Resources
from distrib.config.file import job_yaml
from distrib.config.job import AnyJob, Prepare, digest
from distrib.errors import JobError, RunError
from distrib.values import PASSWORD, WITHOUT

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
ASK_SECONDS = 1.0
LOST_SECONDS = 600
"""How long a cluster that does not answer is asked again."""
STOP_SECONDS = 30
"""From SIGTERM to SIGKILL: Ray's own 3 seconds are too few to close a run in MLflow."""
MARK = "distrib"
"""The key of a submission's metadata that holds the run's name."""


@dataclass(frozen=True)
class Attempt:
    """One submission of a run."""

    id: str
    """NAME-NUMBER."""
    name: str
    number: int
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    started: float
    """Seconds since 1970."""
    ended: float | None
    exit_status: int | None
    message: str

    @property
    def over(self) -> bool:
        """Whether it will not change any more."""
        return self.status in ENDED

    @property
    def outcome(self) -> int:
        """The exit status that the job's own command had; 1 where it had none."""
        if self.status == "SUCCEEDED":
            return 0
        return max(self.exit_status or 1, 1)  # it is negative for one that a signal ended

    def as_json(self) -> dict:
        """Plain values."""
        return asdict(self)


def run_name(job: AnyJob) -> str:
    """The name that a job's submissions go by."""
    return f"prepare-{digest(job)[:8]}" if isinstance(job, Prepare) else job.name


class Remote:
    """The Jobs API of the cluster at an address, such as http://127.0.0.1:8265.

    The token is RAY_AUTH_TOKEN, or in the file that RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token.
    Methods raise :class:`JobError` where the cluster cannot be reached or refuses, and for names that it does not know.
    """

    option = ""
    """What a command to copy needs, where the environment does not say it."""

    def __init__(self, address: str):
        self.address = dashboard_url(address)
        self.option = "" if os.environ.get(SERVER) == address else f" --address {shlex.quote(address)}"
        token = dashboard_token()
        if token:  # before ray is imported, for the calls of its own that read it
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        logging.getLogger("ray").setLevel(logging.ERROR)  # it tells of every upload
        os.environ[SERVER] = self.address  # it would win over the argument, as RAY_ADDRESS would
        with self._answering():
            self._client = jobs_client(self.address, token)

    def submit(self, job: AnyJob, directory: str | None, code: bool) -> Attempt:
        """Hands the job in. ``directory`` is where its relative paths begin, there; ``code`` sends this distrib along.

        Raises :class:`JobError` where it can never run, or is running already.
        """
        name, start = run_name(job), _start(job, directory)
        before = self.attempts(name)
        for attempt in before:
            if not attempt.over:
                raise JobError(
                    f"name: {name!r} is {attempt.status} there already, as {attempt.id}; distrib logs {name} "
                    f"--follow{self.option} shows it, distrib stop {name}{self.option} ends it, "
                    "--set name=... makes it another run"
                )
        if not isinstance(job, Prepare):
            self.resources().check(job.cluster)
        number = max((attempt.number for attempt in before), default=0) + 1
        with tempfile.TemporaryDirectory() as folder, self._answering():
            (Path(folder) / "job.yaml").write_text(job_yaml(job), encoding="utf-8")
            if code:
                package = Path(distrib.__file__).parent
                shutil.copytree(package, Path(folder) / "distrib", ignore=shutil.ignore_patterns("__pycache__"))
            environment = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), **_tracking()}
            self._client.submit_job(
                # -P: a folder named distrib where the job starts is not the code that was sent, or installed
                entrypoint=f'{_enter(start, directory)} && exec python -P -m distrib.cli run "$OLDPWD/job.yaml"',
                submission_id=f"{name}-{number}",
                runtime_env={"working_dir": folder, "env_vars": environment},
                metadata={MARK: name, "digest": digest(job)},
            )
        return self._now(f"{name}-{number}")

    def attempts(self, name: str | None = None) -> list[Attempt]:
        """Every submission by distrib that the cluster knows (of one run), oldest first."""
        with self._answering():
            found = [one for one in map(_attempt, self._client.list_jobs()) if one is not None]
        return sorted((one for one in found if name in (None, one.name)), key=lambda one: (one.started, one.number))

    def attempt(self, name: str) -> Attempt:
        """The submission NAME-NUMBER, or the last one of the run NAME."""
        found = self.attempts()
        exact = [one for one in found if one.id == name]
        named = [one for one in found if one.name == name]
        if exact and named:
            others = ", ".join(one.id for one in named)
            raise JobError(f"{name}: a submission of the run {exact[0].name}, and a run; of that, name one of {others}")
        exact = exact or named
        if not exact:
            known = sorted({one.name for one in found})
            raise UnknownJob(
                f"{name}: {self.address} knows no such job" + (f"; it knows {', '.join(known)}" if known else "")
            )
        return exact[-1]

    def _now(self, identity: str) -> Attempt:
        """One submission, whatever runs are called."""
        found = next((one for one in self.attempts() if one.id == identity), None)
        if found is None:
            raise UnknownJob(f"{identity}: {self.address} knows no such job")
        return found

    def resources(self) -> Resources:
        """What the cluster has now."""
        from ray.util.state import list_nodes

        with self._answering():
            states: list = list_nodes(address=self.address, limit=10_000, timeout=REQUEST_SECONDS)
        totals = [state.resources_total or {} for state in states if state.state == "ALIVE"]
        return Resources(tuple(Node(total.get("CPU", 0), total.get("GPU", 0)) for total in totals), local=False)

    def follow(self, attempt: Attempt, show: Callable[[str], None], say: Callable[[str], None]) -> Attempt:
        """Shows the job's output as it comes, until the job is over, and returns how it ended.

        A cluster that does not answer is asked again for ten minutes. Raises :class:`RunError` after that, or where
        the cluster has forgotten the job (its head was replaced).
        """
        shown, lost = 0, None
        while True:
            began = time.monotonic()
            try:
                found = self._now(attempt.id)
                with self._answering():
                    text = self._client.get_job_logs(attempt.id)
            except Unreachable:
                if lost is None:
                    lost = time.monotonic()
                    say(f"{self.address} does not answer; the job goes on there, and this tries again")
                if time.monotonic() - lost > LOST_SECONDS:
                    raise RunError(
                        f"{self.address} has not answered for {LOST_SECONDS} s; the job may well go on: "
                        f"distrib logs {attempt.name} --follow{self.option}"
                    ) from None
                time.sleep(ASK_SECONDS)
                continue
            except UnknownJob:
                raise RunError(
                    f"{attempt.id}: {self.address} has forgotten this job (was its head replaced?); submit it again, "
                    "and it goes on from its last checkpoint"
                ) from None
            if lost is not None:
                say(f"{self.address} answers again")
                lost = None
            show(text[shown:])
            shown = len(text)
            if found.over:
                return found
            # all of it comes each time: what takes long to come is asked for less often
            time.sleep(min(max(ASK_SECONDS, 10 * (time.monotonic() - began)), REQUEST_SECONDS))

    def logs(self, attempt: Attempt) -> str:
        """All that the job has printed so far."""
        with self._answering():
            return self._client.get_job_logs(attempt.id)

    def stop(self, attempt: Attempt) -> Attempt:
        """Asks the job to end, and waits until it has. Raises :class:`RunError` if it does not."""
        if attempt.over:
            return attempt
        with self._answering():
            self._client.stop_job(attempt.id)
        deadline = time.monotonic() + 2 * STOP_SECONDS + REQUEST_SECONDS
        while time.monotonic() < deadline:
            attempt = self._now(attempt.id)
            if attempt.over:
                return attempt
            time.sleep(ASK_SECONDS)
        raise RunError(
            f"{attempt.id}: asked to stop, it is {attempt.status} still; distrib jobs{self.option} shows what becomes "
            "of it"
        )

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """What Ray and requests raise, in words."""
        from ray.exceptions import AuthenticationError, RayError
        from ray.util.state.exception import RayStateApiException

        try:
            yield
        except AuthenticationError as error:
            has = "refuses the token that it was given" if dashboard_token() else "wants a token"
            raise JobError(
                f"--address {self.address} {has} ({str(error).splitlines()[0]}); set RAY_AUTH_TOKEN, or "
                "RAY_AUTH_TOKEN_PATH to a file with it"
            ) from None
        except (OSError, RayError, RayStateApiException) as error:  # what requests raises is an OSError
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
            raise Unreachable(
                f"--address {self.address} is no Ray dashboard that answers ({reason}); name the cluster's, such as "
                "http://HEAD:8265"
            ) from None
        except RuntimeError as error:
            text = str(error)
            if "already exists" in text:
                raise JobError(
                    f"name: somebody else has just submitted this run; distrib jobs{self.option} shows it"
                ) from None
            if "status code 5" in text:
                raise Unreachable(f"--address {self.address}: {text.splitlines()[0][:160]}") from None
            raise JobError(f"--address {self.address}: {text.strip().splitlines()[0][:200]}") from None


class UnknownJob(JobError):
    """The cluster has no job of this name."""


class Unreachable(JobError):
    """The cluster does not answer: it may, when asked again."""


def _start(job: AnyJob, directory: str | None) -> str:
    """The folder that the job is started in, there. Raises :class:`JobError` where none is named."""
    storage = None if isinstance(job, Prepare) else job.storage
    start = directory or storage
    if start is None or not start.startswith("/"):
        named = f"storage: {storage!r} is relative, and on a cluster that begins nowhere; " if not directory else ""
        raise JobError(f"{named}name a folder that every node of the cluster sees: --directory /PATH")
    return start


def _enter(start: str, directory: str | None) -> str:
    """The shell's words for it; a run's own storage is made, as ``distrib run`` makes it."""
    return f"cd {shlex.quote(start)}" if directory else f"mkdir -p {shlex.quote(start)} && cd {shlex.quote(start)}"


def _tracking() -> dict[str, str]:
    """MLFLOW_TRACKING_URI of this shell, if it means the same there. Raises :class:`JobError` if it has a password."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if PASSWORD.match(uri):
        raise JobError(f"MLFLOW_TRACKING_URI: {WITHOUT}, on the cluster's nodes")
    host = re.match(r"https?://\[?([^/]+?)\]?(:\d+)?(/|$)", uri)
    if host is None or host[1] in ("localhost", "::1") or host[1].startswith("127."):
        return {}
    return {"MLFLOW_TRACKING_URI": uri}


def _attempt(details) -> Attempt | None:
    """A submission by distrib, out of what Ray says of a job."""
    name = (details.metadata or {}).get(MARK)
    number = (details.submission_id or "").rpartition("-")[2]
    if name is None or not number.isdigit():
        return None
    ended = details.end_time / 1000 if details.end_time else None
    return Attempt(
        details.submission_id, name, int(number), str(getattr(details.status, "value", details.status)),
        (details.start_time or 0) / 1000, ended, details.driver_exit_code, (details.message or "").strip(),
    )  # fmt: skip
