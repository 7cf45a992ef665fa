"""The image, built on a stand-in for Ray's base and run as the manifests run it: read-only, without capabilities, as
user 1000, and without a network.

Left out of the other suites (``make image``): it takes root, Debian's debootstrap, buildah, podman and runc, 40 GB of
disk while it runs and some ten minutes. The stand-in is Debian with Python 3.11: Ray's own base and GPUs are not tried.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from manifests import ROOT

from distrib import __version__

NEEDED = ("debootstrap", "buildah", "podman", "runc")
MISSING = [tool for tool in NEEDED if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.image,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(bool(MISSING) or os.geteuid() != 0, reason=f"takes root and {', '.join(NEEDED)}"),
]
BASE, IMAGE = "localhost/ray-standin:py311", "localhost/distrib:test"
TRUSTED = "/etc/ssl/certs/ca-certificates.crt"
HARDENED = [
    "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=1000", "--network=none",
    "--shm-size=1g", "--tmpfs=/tmp:size=8g,mode=1777", "--env=HOME=/tmp",
    "--runtime=runc", "--ulimit=nofile=8192:8192", "--ulimit=nproc=8192:8192",  # podman's may exceed the machine's
]  # fmt: skip
HEAD = """
set -eu
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n')
ray start --head --node-ip-address=127.0.0.1 --port=6399 --num-cpus=2 --dashboard-host=127.0.0.1 >&2
ray health-check --address=127.0.0.1:6399 >&2
cd /tmp
distrib run /jobs/digits.yaml --json --set cluster.address=127.0.0.1:6399 --set cluster.num_workers=1 \\
  --set optim.epochs=1 --set objective.epsilon_warmup_epochs=0 --set optim.warmup_epochs=0 \\
  --set compare_natural=false --set 'evaluation.attacks=[{attack: fgsm}]' --set evaluation.n=50
"""


class Containers:
    """buildah and podman with images of their own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.store = [f"--root={folder / 'store'}", f"--runroot={folder / 'run'}", "--storage-driver=overlay"]

    def tool(self, name: str, *words: str, seconds: int = 300) -> str:
        """What the command prints."""
        return call([name, *self.store, *words], seconds)

    def run(self, *words: str, options: tuple[str, ...] = (), seconds: int = 300) -> str:
        """What a command prints in a hardened container."""
        return self.tool("podman", "run", "--rm", *HARDENED, *options, IMAGE, *words, seconds=seconds)


def call(words: list[str], seconds: int) -> str:
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds)
    assert done.returncode == 0, (done.stdout[-3000:] + done.stderr[-3000:]).decode(errors="replace")
    return done.stdout.decode()


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """With the image in them, and the stand-in that it was built on."""
    found = Containers(tmp_path_factory.mktemp("containers"))
    try:
        root, packed = found.folder / "root", found.folder / "root.tar"
        packages = "ca-certificates,python-is-python3,python3-dev,python3-venv"
        call(["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(root)], 600)
        call(["chroot", str(root), "useradd", "--uid=1000", "--create-home", "ray"], 60)
        if Path(TRUSTED).exists():  # as on a machine behind a company's proxy
            shutil.copy(TRUSTED, root / TRUSTED.lstrip("/"))
        call(["tar", "--numeric-owner", "-C", str(root), "-cf", str(packed), "."], 300)
        found.tool("podman", "import", f"--change=ENV SSL_CERT_FILE={TRUSTED}", str(packed), BASE)
        shutil.rmtree(root)
        packed.unlink()
        found.tool(
            "buildah", "bud", "--isolation=chroot", "--pull-never", "--network=host",
            f"--build-arg=BASE_IMAGE={BASE}", f"--tag={IMAGE}", str(ROOT), seconds=2700,
        )  # fmt: skip
        yield found
    finally:
        subprocess.run(["podman", *found.store, "rmi", "--all", "--force"], capture_output=True, timeout=300)


def test_what_the_image_says_of_itself(containers: Containers) -> None:
    (image,) = json.loads(containers.tool("podman", "image", "inspect", IMAGE))
    print(f"{image['Size'] / 1e9:.2f} GB")
    config = image["Config"]
    assert config["User"] == "1000" and not config.get("Entrypoint")
    assert config["Labels"]["org.opencontainers.image.version"] == __version__


def test_nothing_is_allowed_and_nothing_can_be_written(containers: Containers) -> None:
    said = containers.run(
        "sh", "-c", "id -u; grep -E 'Cap(Prm|Eff|Bnd)|NoNewPrivs' /proc/self/status; touch /opt/x || echo refused"
    )
    words = said.split()
    assert words[0] == "1000" and words[-1] == "refused"
    assert [words[words.index(f"Cap{kind}:") + 1] for kind in ("Prm", "Eff", "Bnd")] == ["0" * 16] * 3
    assert words[words.index("NoNewPrivs:") + 1] == "1"


def test_doctor_finds_no_fault(containers: Containers) -> None:
    assert containers.run("distrib", "doctor").splitlines()[-1] == "no fault found"


def test_a_head_starts_and_a_model_is_trained_on_it(containers: Containers) -> None:
    said = containers.run("bash", "-c", HEAD, options=(f"--volume={ROOT / 'jobs'}:/jobs:ro",), seconds=900)
    result = json.loads(said.splitlines()[-1])
    assert (result["kind"], result["epochs"], result["model"]) == ("train", 1, "models:/digits/1")


def test_what_a_tracking_server_for_a_team_needs_is_in_it(containers: Containers) -> None:
    containers.run("python", "-c", "import boto3, flask_wtf, psycopg2")
