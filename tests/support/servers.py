"""A tracking server as a team runs it: MLflow with users over a real PostgreSQL and an S3-compatible object store.

PostgreSQL is Debian's package, started for the test by its own user; the object store is moto's server. All of them
listen on the loopback interface (MLflow also on a network of the test's own), and are stopped by their ids.
"""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from drive import ROOT, environment, free_port

BINARIES = max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=Path("/none/initdb")).parent
POSSIBLE = os.geteuid() == 0 and BINARIES.is_dir() and shutil.which("runuser") is not None
WHY_NOT = "PostgreSQL takes root, to become its user, and Debian's package postgresql"
BUCKET, PASSWORD, ADMIN = "distrib", "only-for-this-test", "admin-for-this-test"


@dataclass(frozen=True)
class Server:
    """MLflow, its database and its bucket."""

    uri: str
    database: str
    s3: str

    def user(self, name: str, password: str = PASSWORD) -> dict[str, str]:
        """The environment of a process of this user."""
        return environment() | {
            "MLFLOW_TRACKING_URI": self.uri, "MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": password,
        }  # fmt: skip

    def python(self, code: str, user: str, password: str = PASSWORD) -> subprocess.CompletedProcess:
        """A script run by a user."""
        words = [sys.executable, "-c", code]
        return subprocess.run(words, env=self.user(user, password), capture_output=True, text=True, timeout=120)

    def sql(self, query: str) -> str:
        """What the database answers."""
        words = [str(BINARIES / "psql"), self.database.replace("+psycopg2", ""), "-Atc", query]
        return subprocess.run(words, check=True, capture_output=True, text=True, timeout=30).stdout.strip()

    def objects(self) -> list[str]:
        """What lies in the bucket."""
        import boto3

        store = boto3.client("s3", endpoint_url=self.s3, region_name="us-east-1", **KEYS)
        return [one["Key"] for one in store.list_objects_v2(Bucket=BUCKET).get("Contents", [])]


KEYS = {"aws_access_key_id": "key-for-this-test", "aws_secret_access_key": "secret-for-this-test"}


def status(url: str, host: str | None = None, user: str = "") -> int:
    """The HTTP status of a GET."""
    import base64

    request = urllib.request.Request(url)
    if host:
        request.add_header("Host", host)
    if user:
        request.add_header("Authorization", "Basic " + base64.b64encode(user.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@contextmanager
def postgres() -> Iterator[str]:
    """A new PostgreSQL; the SQLAlchemy address of its database ``mlflow``."""
    room = Path(tempfile.mkdtemp(prefix="postgres-"))
    owner = pwd.getpwnam("postgres")
    os.chown(room, owner.pw_uid, owner.pw_gid)
    (room / "password").write_text(PASSWORD)
    (room / "password").chmod(0o644)
    port = free_port()

    def run(*words: str) -> None:
        as_owner = ["runuser", "-u", "postgres", "--", str(BINARIES / words[0]), *words[1:]]
        subprocess.run(as_owner, check=True, cwd=room, stdout=subprocess.DEVNULL, timeout=120)

    data, log = str(room / "data"), str(room / "log")
    run("initdb", "-D", data, "-U", "mlflow", "--auth=scram-sha-256", f"--pwfile={room / 'password'}", "--no-sync")
    settings = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={room} -c fsync=off"
    run("pg_ctl", "-D", data, "-l", log, "-w", "-t", "60", "-o", settings, "start")
    try:
        address = f"postgresql+psycopg2://mlflow:{PASSWORD}@127.0.0.1:{port}"
        psql = [str(BINARIES / "psql"), f"{address.replace('+psycopg2', '')}/postgres", "-c", "CREATE DATABASE mlflow"]
        subprocess.run(psql, check=True, capture_output=True, timeout=30)
        yield f"{address}/mlflow"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(room, ignore_errors=True)


@contextmanager
def process(words: list[str], folder: Path, env: dict[str, str], ready: str) -> Iterator[None]:
    """A server, until the block ends; ``ready`` is a URL that answers once it is up."""
    with (folder / f"{Path(words[0]).name}.log").open("w") as log:
        server = subprocess.Popen(words, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        end = time.monotonic() + 180
        while True:
            assert server.poll() is None, Path(log.name).read_text()[-2000:]
            try:
                status(ready)
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                assert time.monotonic() < end, Path(log.name).read_text()[-2000:]
                time.sleep(0.5)
        yield
    finally:
        os.killpg(server.pid, 15)
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, 9)
            server.wait(timeout=30)


def of_the_manifest(host: str, port: int) -> tuple[list[str], dict[str, str]]:
    """How k8s/mlflow starts the server, but on an address of this machine; and its plain variables."""
    deployment = yaml.safe_load((ROOT / "k8s" / "mlflow" / "deployment.yaml").read_text())
    (box,) = deployment["spec"]["template"]["spec"]["containers"]
    plain = {one["name"]: one["value"] for one in box["env"] if "value" in one}
    changed = {"--host=0.0.0.0": f"--host={host}", "--port=5000": f"--port={port}", "--workers=2": "--workers=1"}
    assert set(changed) < set(box["command"])
    words = [changed.get(word, word) for word in box["command"]]
    words = [f"{word},{host}:*" if word.startswith("--allowed-hosts=") else word for word in words]
    return [str(Path(sys.executable).parent / words[0]), *words[1:]], plain


@contextmanager
def tracking_server(folder: Path, host: str = "127.0.0.1") -> Iterator[Server]:
    """All three, with the users trainer (EDIT on what it makes) and reader (READ); MLflow answers at ``host``."""
    binaries = Path(sys.executable).parent
    s3_port, port = free_port(), free_port()
    s3 = f"http://127.0.0.1:{s3_port}"
    moto = [str(binaries / "moto_server"), "-H", "127.0.0.1", "-p", str(s3_port)]
    with postgres() as database, process(moto, folder, environment(), s3):
        import boto3

        boto3.client("s3", endpoint_url=s3, region_name="us-east-1", **KEYS).create_bucket(Bucket=BUCKET)
        (folder / "auth.ini").write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {database}\nadmin_username = admin\n"
            "auth_cache_ttl_seconds = 60\n"
        )
        words, plain = of_the_manifest(host, port)
        env = environment() | plain | {
            "MLFLOW_BACKEND_STORE_URI": database, "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}/artifacts",
            "MLFLOW_S3_ENDPOINT_URL": s3, "AWS_ACCESS_KEY_ID": KEYS["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": KEYS["aws_secret_access_key"], "MLFLOW_FLASK_SERVER_SECRET_KEY": "for-this-test",
            "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN, "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
            "HOME": str(folder),
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip
        upgrade = [str(binaries / "mlflow"), "db", "upgrade", database]
        subprocess.run(upgrade, check=True, env=env, capture_output=True, timeout=180)
        server = Server(f"http://{host}:{port}", database, s3)
        with process(words, folder, env, f"{server.uri}/health"):
            made = server.python(
                "import os; from mlflow.server import get_app_client\n"
                "client = get_app_client('basic-auth', tracking_uri=os.environ['MLFLOW_TRACKING_URI'])\n"
                f"for name in ('trainer', 'reader'): client.create_user(name, {PASSWORD!r})",
                "admin", ADMIN,
            )  # fmt: skip
            assert made.returncode == 0, made.stderr[-2000:]
            yield server
