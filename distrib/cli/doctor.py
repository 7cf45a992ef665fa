"""Is this machine fit for distrib, and if not, what is to be done?

:func:`examine` returns one :class:`Check` a subject and never raises: a fault is a finding. Whatever may crash or hang
when it is imported (torch, FFCV, Ray, MLflow) is imported in a process of its own, so this module needs nothing but the
standard library. It leaves nothing behind: what it writes to see whether it can, it removes.
"""

import ctypes.util
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import urlopen

from distrib.cluster.local import fault
from distrib.files import existing, why_not_writable
from distrib.processor import computes
from distrib.values import PASSWORD, WITHOUT

GIB = 2**30
IMPORT_TIMEOUT_SECONDS = 180.0
"""Far above the slowest import on a busy machine (FFCV, which compiles for some 10 s): what takes longer hangs."""
SERVER_TIMEOUT_SECONDS = 5.0
MIN_SHARED_BYTES = GIB // 2
"""Docker gives 64 MB. Below its share of memory Ray moves its object store from /dev/shm to disk, which is slow."""
SHARED_MEMORY = Path("/dev/shm")
NVIDIA_DRIVER = Path("/dev/nvidiactl")
LIBRARIES = {
    "OpenCV": ("opencv4", "opencv_core", "libopencv-dev"),
    "libturbojpeg": ("libturbojpeg", "turbojpeg", "libturbojpeg0-dev"),
}
"""What FFCV is linked against: name -> (pkg-config's name, the shared library, the apt package)."""
TORCH_REPORT = """
import json, torch, torchvision
cuda = torch.cuda.is_available()
print(json.dumps({
    "version": torch.__version__,
    "torchvision": torchvision.__version__,
    "built_for": torch.version.cuda,
    "device": "cuda" if cuda else "mps" if torch.backends.mps.is_available() else "cpu",
    "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
    "bfloat16": torch.cuda.is_bf16_supported(including_emulation=False) if cuda else None,
    "threads": torch.get_num_threads(),
}))
"""


@dataclass(frozen=True)
class Check:
    """One finding: ``found`` in one line; ``cure`` says what to do, and is empty where ``ok``."""

    name: str
    ok: bool
    found: str
    cure: str = ""


def examine(tracking_uri: str | None, storage: Path, min_free_bytes: int = 5 * GIB) -> list[Check]:
    """Every check of this machine, always the same ones in the same order; takes some seconds (four slow imports).

    ``tracking_uri`` is MLflow's, None for the default (SQLite in the working directory); ``storage`` is the folder that
    runs are written to, which need not exist yet.
    """
    checks: list[Callable[[], Check]] = [
        check_python,
        check_torch,
        check_libraries,
        check_ffcv,
        check_ray,
        check_mlflow,
        partial(check_tracking, tracking_uri),
        partial(check_storage, storage),
        partial(check_disk, storage, min_free_bytes),
        check_shared_memory,
    ]
    with ThreadPoolExecutor(max_workers=len(checks)) as pool:
        return list(pool.map(_guarded, checks))


def report(checks: list[Check]) -> str:
    """The findings as aligned lines, the cure under each fault, and how many faults there are."""
    width = max((len(check.name) for check in checks), default=0)
    lines = []
    for check in checks:
        lines.append(f"{'ok' if check.ok else 'FAULT':<5}  {check.name:<{width}}  {check.found}")
        if not check.ok:
            lines.append(f"{'':<5}  {'':<{width}}  -> {check.cure}")
    num_faults = sum(not check.ok for check in checks)
    lines.append({0: "no fault found", 1: "1 fault"}.get(num_faults, f"{num_faults} faults"))
    return "\n".join(lines)


def check_python() -> Check:
    """Python. (An older one cannot even read distrib.)"""
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("Python", True, f"{version} ({sys.executable})")


def check_torch() -> Check:
    """torch and torchvision, the device that torch would compute on, and whether it has bfloat16 in hardware."""
    answer, why = _in_own_process(TORCH_REPORT)
    if why:
        return Check("torch", False, why, "make setup installs torch and torchvision as they belong together")
    torch = json.loads(answer)
    bfloat16 = computes("bfloat16") if torch["bfloat16"] is None else torch["bfloat16"]
    where = f"{len(torch['gpus'])} x {torch['gpus'][0]}" if torch["gpus"] else f"{torch['threads']} threads"
    found = f"{torch['version']}, torchvision {torch['torchvision']}, {torch['device']} ({where}, "
    found += "bfloat16 in hardware)" if bfloat16 else "no bfloat16 in hardware)"
    if torch["device"] != "cuda" and NVIDIA_DRIVER.exists():
        cure = f"it is built for CUDA {torch['built_for']}: update the driver, or install the torch that fits it"
        return Check("torch", False, f"{found}, although there is an NVIDIA driver", cure)
    return Check("torch", True, found)


def check_libraries() -> Check:
    """FFCV's system libraries: what pkg-config says, as its build asks there, else the shared objects."""
    found, packages = [], []
    for library, (pkg_config_name, shared_name, package) in LIBRARIES.items():
        version = _pkg_config_version(pkg_config_name) or ctypes.util.find_library(shared_name)
        found.append(f"{library} {version}" if version else f"no {library}")
        if not version:
            packages.append(package)
    ok = not packages
    cure = "" if ok else f"apt-get install {' '.join(packages)}, then make setup"
    return Check("FFCV's libraries", ok, ", ".join(found), cure)


def check_ffcv() -> Check:
    """Whether FFCV can be imported, tried in a process of its own."""
    version, why = _imported("ffcv", "ffcv.fields.decoders, ffcv.loader, ffcv.writer")
    if not why:
        return Check("FFCV", True, version)
    if "No module named 'ffcv" in why:
        cure = "make setup, or pip install 'distrib[ffcv]', builds it"
    elif "libGL" in why or "libgthread" in why:
        cure = "apt-get install libgl1 libglib2.0-0"
    else:
        needed = " ".join(package for *_, package in LIBRARIES.values())
        cure = f"apt-get install {needed}, then .venv/bin/uv pip install --reinstall --no-cache --no-deps ffcv"
    return Check("FFCV", False, why, f"{cure}; until then `loader: memory` does without it")


def check_ray() -> Check:
    """Ray with the extras it is used with, and whether its folders let it start.

    aiohttp_cors stands for ``default``, without which there is no Jobs API.
    """
    version, why = _imported("ray", "ray, ray.train, ray.tune, aiohttp_cors")
    if why:
        return Check("Ray", False, why, "make setup, or install 'ray[default,train,tune]' as pyproject.toml has it")
    found = fault()
    if found is not None:
        return Check("Ray", False, f"{version}, but {found.what}", found.cure)
    return Check("Ray", True, version)


def check_mlflow() -> Check:
    """Whether MLflow can be imported."""
    version, why = _imported("mlflow", "mlflow")
    if why:
        return Check("MLflow", False, why, "make setup, or install mlflow as pyproject.toml has it")
    return Check("MLflow", True, version)


def check_tracking(uri: str | None) -> Check:
    """Can runs be recorded at ``uri``? A server is asked, a SQLite file is looked at, other databases are believed."""
    uri = uri or "sqlite:///mlflow.db"
    try:
        scheme = urlsplit(uri).scheme.partition("+")[0]
    except ValueError as error:
        return Check("tracking", False, f"{uri} is no address: {error}", "mend MLFLOW_TRACKING_URI, or the job's")
    match scheme:
        case "http" | "https":
            return check_server(uri)
        case "sqlite":
            return check_sqlite(uri)
        case "" | "file":
            cure = "MLflow keeps no runs in plain folders since 3.13: use sqlite:///mlflow.db, or a server"
            return Check("tracking", False, f"{uri} is a folder", cure)
        case _ if PASSWORD.match(uri):
            return Check("tracking", False, f"{scheme}: the address has a password in it", WITHOUT)
        case _:
            return Check("tracking", True, f"{scheme}: not checked")


def check_storage(storage: Path) -> Check:
    """Whether files can be made and removed in ``storage``."""
    if why := why_not_writable(storage):
        return Check("storage", False, f"{storage}: {why}", "make it writable for this user, or name another folder")
    return Check("storage", True, f"{storage} is writable" if storage.exists() else f"{storage} can be made")


def check_disk(storage: Path, min_free_bytes: int) -> Check:
    """Whether ``storage`` has ``min_free_bytes`` left."""
    free = shutil.disk_usage(existing(storage)).free
    found = f"{free / GIB:.1f} GiB free for {storage}"
    if free < min_free_bytes:
        cure = f"make room for {min_free_bytes / GIB:.1f} GiB there, or name a folder on another disk"
        return Check("disk space", False, found, cure)
    return Check("disk space", True, found)


def check_shared_memory() -> Check:
    """Whether /dev/shm holds Ray's object store."""
    if not SHARED_MEMORY.exists():
        return Check("shared memory", True, f"no {SHARED_MEMORY} on this system; Ray uses files")
    total = shutil.disk_usage(SHARED_MEMORY).total
    found = f"{total / GIB:.1f} GiB in {SHARED_MEMORY}"
    if total < MIN_SHARED_BYTES:
        cure = "docker run --shm-size=2g; in Kubernetes, mount an emptyDir of medium Memory there"
        return Check("shared memory", False, found, cure)
    return Check("shared memory", True, found)


def check_server(uri: str) -> Check:
    """Whether an MLflow server answers at ``uri``."""
    parts = urlsplit(uri)
    address = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")  # without a password
    cure = (
        "start it (mlflow server --backend-store-uri sqlite:///mlflow.db), or set MLFLOW_TRACKING_URI to one that runs"
    )
    try:
        with urlopen(f"{address}/health", timeout=SERVER_TIMEOUT_SECONDS) as response:
            answer = response.read(64).strip()
    except HTTPError as error:
        with error:  # it holds the connection
            cure = "name this host in the server's --allowed-hosts" if error.code == 403 else cure
            return Check("tracking", False, f"{address} answers {error.code} {error.reason}", cure)
    except (OSError, HTTPException, ValueError) as error:
        return Check("tracking", False, f"{address} cannot be reached: {getattr(error, 'reason', error)}", cure)
    if answer != b"OK":
        return Check("tracking", False, f"{address} answers, but not as an MLflow server does", cure)
    return Check("tracking", True, f"{address} is up")


def check_sqlite(uri: str) -> Check:
    """Whether the SQLite file of ``uri`` is a database, or could be made."""
    name = uri.partition("://")[2].partition("?")[0].removeprefix("/")  # sqlite:////absolute.db, sqlite:///relative.db
    path = Path(name or ".")
    if path.is_dir():
        cure = "write sqlite:///mlflow.db, or sqlite:////absolute/path.db"
        return Check("tracking", False, f"{uri} names no file", cure)
    if not path.parent.is_dir():
        return Check("tracking", False, f"there is no folder {path.parent}", f"mkdir -p {path.parent}")
    if why := why_not_writable(path.parent):
        return Check("tracking", False, f"{path.parent}: {why}", "SQLite writes beside its file: name another folder")
    if not path.exists():
        return Check("tracking", True, f"{path} can be made")
    if not os.access(path, os.W_OK):
        return Check("tracking", False, f"{path} is read-only", f"chmod u+w {path}, or name another file")
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            database.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        return Check("tracking", False, f"{path}: {error}", "move it away, or name another file")
    return Check("tracking", True, f"{path} is a SQLite database")


def _guarded(check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:  # whatever it is, the other findings must still be told
        name = getattr(check, "func", check).__name__
        return Check(name, False, f"{type(error).__name__}: {error}", "this check itself failed: please report it")


def _imported(package: str, modules: str) -> tuple[str, str]:
    """(the version of ``package`` by its metadata, ""), or ("", why ``modules`` cannot be imported).

    ``ffcv.__version__`` names another version than the package does.
    """
    return _in_own_process(f"import {modules}\nfrom importlib.metadata import version\nprint(version({package!r}))")


def _in_own_process(program: str) -> tuple[str, str]:
    """(the last line that ``program`` prints, ""), or ("", why it failed); a crash or a hang ends only that process."""
    try:
        done = _run([sys.executable, "-P", "-c", program], IMPORT_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return "", f"no answer within {IMPORT_TIMEOUT_SECONDS:g} s"
    if done.returncode < 0:
        return "", f"died of {signal.Signals(-done.returncode).name} when imported"
    if done.returncode:
        return "", _last_line(done.stderr) or f"exit status {done.returncode} when imported"
    return _last_line(done.stdout), ""


def _run(command: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout
    )


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


def _pkg_config_version(name: str) -> str:
    try:
        done = _run(["pkg-config", "--modversion", name], timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
