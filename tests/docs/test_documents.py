"""The documents hold: their links, anchors, commands, targets, files, fields, flags and job files are there."""

import ast
import re
import shlex
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

import distrib
from distrib.cli.dry_run import plan
from distrib.cli.parser import parser
from distrib.config.file import read
from distrib.config.job import JOB, Prepare

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "k8s/README.md", *(ROOT / "docs").glob("*.md"))
)
every_document = pytest.mark.parametrize("name", DOCUMENTS)
FOLDERS = tuple(f"{path.name}/" for path in ROOT.iterdir() if path.is_dir() and path.name not in ("runs", "betons"))


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def prose(name: str) -> str:
    """The document without its blocks of code."""
    return re.sub(r"^```.*?^```$|^    [^\n]*$", "", text_of(name), flags=re.DOTALL | re.MULTILINE)


def fenced(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(name), re.DOTALL | re.MULTILINE)


def inline(name: str) -> list[str]:
    """What stands in backticks within a sentence, on one line each."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(name))]


def lines(name: str) -> list[str]:
    """The lines of indented and fenced blocks, with those that a backslash continues in one."""
    text = text_of(name)
    found = [*re.findall(r"^    (.*)$", text, re.MULTILINE), *"\n".join(fenced(name, "(?:sh|bash)?")).splitlines()]
    return "\n".join(found).replace("\\\n", " ").splitlines()


def words(line: str) -> list[str]:
    """A line of shell as words, without its comment and without what comes behind a pipe, an && or a redirection."""
    try:
        found = shlex.split(line, comments=True)
    except ValueError:
        return []
    ends = [place for place, word in enumerate(found) if word in ("|", ">", "&&", "&") or word.endswith(";")]
    return found[: min(ends, default=None)]


def commands(name: str, tool: str) -> list[list[str]]:
    """Every command line of a tool in a document, as words."""
    return [found for line in [*lines(name), *inline(name)] if (found := words(line))[:1] == [tool]]


@cache
def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.*)$", re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.S | re.M), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_document
def test_every_link_leads_somewhere(name: str):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(name)):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / name).parent / file if file else ROOT / name
        assert path.exists(), f"{name}: {target}"
        assert not anchor or anchor in anchors(path), f"{name}: {target} is none of {sorted(anchors(path))}"


def test_every_page_is_reached_from_the_readme():
    linked = {target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", prose("README.md"))}
    assert set(DOCUMENTS) - {"README.md"} <= linked


@every_document
def test_every_command_of_distrib_is_one(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for check in ("_found", "_sets"):  # the models and the sets of images are not here
        monkeypatch.setattr(f"distrib.cli.dry_run.{check}", lambda *_: ())
    for _, *arguments in commands(name, "distrib"):
        if not arguments:
            continue
        if len(arguments) == 1:  # the verb alone, as a noun of a sentence
            with pytest.raises(SystemExit) as left:
                parser().parse_args([*arguments, "--help"])
            assert left.value.code == 0, f"{name}: distrib {arguments[0]}"
            continue
        try:
            options = parser().parse_args(arguments)
        except SystemExit:
            pytest.fail(f"{name}: distrib {shlex.join(arguments)}")
        job = getattr(options, "job", None)
        if job is not None and str(job).startswith(FOLDERS):
            asked = read(ROOT / job, options.overrides)
            if getattr(asked, "data", None) is not None and asked.data.source == "digits":  # pyright: ignore
                assert list(plan(asked))
            elif not isinstance(asked, Prepare):
                assert asked.resolved()


@every_document
def test_every_target_of_make_is_one(name: str):
    targets = set(re.findall(r"^([a-z]+):", text_of("Makefile"), re.MULTILINE))
    for _, *arguments in commands(name, "make"):
        assert arguments[0] in targets, f"{name}: make {arguments[0]}"


@every_document
def test_every_file_that_is_named_is_there(name: str):
    base = (ROOT / name).parent
    near = tuple(f"{path.name}/" for path in base.iterdir() if path.is_dir()) if base.name == "k8s" else ()
    found = [word.rstrip(",;:") for line in [*lines(name), *inline(name)] for word in words(line)]
    named = [word for word in found if word.startswith((*FOLDERS, *near)) and re.fullmatch(r"[\w./-]+", word)]
    named += [word for word in inline(name) if re.fullmatch(r"Makefile|Dockerfile|pyproject\.toml", word)]
    for word in named:
        assert (ROOT / word).exists() or (base / word).exists(), f"{name}: {word} is not there"


@cache
def fields() -> tuple[frozenset[str], frozenset[str]]:
    """The top-level keys of job files, and every key anywhere in them."""
    schema = JOB.json_schema()
    kinds = [schema["$defs"][part["$ref"].rpartition("/")[2]] for part in schema["oneOf"]]
    every = {key for part in [*kinds, *schema["$defs"].values()] for key in part.get("properties", {})}
    return frozenset(key for kind in kinds for key in kind["properties"]), frozenset(every)


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name not in ("docs/architecture.md", "docs/jobs.md")])
def test_every_field_of_a_job_that_is_named_is_one(name: str):
    top, every = fields()
    for code in inline(name):
        path = re.fullmatch(r"(\w+(?:\.\w+)+)(: .*)?", code)
        if (
            path
            and path[1].split(".")[0] in top
            and path[1].rpartition(".")[2] not in ("yaml", "md", "html", "json", "py")
        ):
            assert set(path[1].split(".")) <= every, f"{name}: {path[1]} is no field of a job"


@every_document
def test_every_job_in_a_block_is_sound(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: Callable[..., Path]
):
    """Parts of jobs too, such as ``data: ...``, where a whole one stands before them: they take its parts' places."""
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "images", [(8, 8)] * 2)
    for file in ("train.safetensors", "test.safetensors"):
        (tmp_path / file).write_bytes(b"")
    (tmp_path / "my_models.py").write_text("def build(image, num_classes, hidden): ...")  # the page has it, in words
    job: dict = {}
    for part in map(yaml.safe_load, fenced(name, "yaml")):
        if "kind" in part or ("kind" in job and set(part) <= fields()[0]):
            job = job | part if "kind" not in part else part
            (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
            assert list(plan(read(tmp_path / "job.yaml", [])))


def test_the_blocks_of_python_run_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    x, y = torch.rand(64, 1, 8, 8), torch.arange(64) % 10
    net = distrib.SmallCNN().build((1, 8, 8), num_classes=10, mean=[0.0], std=[1.0])
    given = {"x": x, "y": y, "model": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), "net": net}
    blocks = fenced("docs/python.md", "python")
    for block in blocks:
        named = set(re.findall(r"distrib\.(\w+)", block))
        assert named <= set(distrib.__all__), f"{sorted(named)} are not all public"
        if not re.search(r"mlflow|digits-model|models:/|jobs/", block):  # these need a run of the default job
            exec(block.replace("epochs=20", "epochs=1").replace("range(20)", "range(1)"), given)
    assert "x_adv" in given and "card" in given and given["state"].step == 1 and len(blocks) == 9
    assert (tmp_path / "train.safetensors").exists()


def test_every_flag_is_explained_and_said_to_block_where_it_does():
    page = text_of("docs/evaluation.md")
    table = page[page.index("\n## Flags") : page.index("\n## Two versions")]
    told = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", table, re.MULTILINE))
    trees = [ast.parse(path.read_text()) for path in (ROOT / "distrib" / "evaluation").glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    raised: dict[str, set] = {}
    for node in nodes:
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Flag":
            given = {word.arg: getattr(word.value, "value", None) for word in node.keywords}  # None: by the case
            if isinstance(given["name"], str):
                raised.setdefault(given["name"], set()).add(given["blocking"])
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert len(raised) > 15 and set(raised) <= set(told), "flags without a line in the table"
    assert set(told) <= texts, "flags of the table that nothing raises"
    for flag, blocking in raised.items():
        words = {"yes": {True}, "no": {False}}.get(told[flag])
        assert words == blocking or (words is None and blocking not in ({True}, {False})), flag


def test_the_page_on_the_architecture_has_the_rooms_in_their_order():
    source = ast.parse(text_of("tests/architecture/test_layers.py"))
    (order,) = [
        ast.literal_eval(node.value.func.value).split()
        for node in source.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ORDER"
        and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute)
    ]  # fmt: skip
    page = text_of("docs/architecture.md")
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == order
    for code in inline("docs/architecture.md"):
        room, _, module = code.partition(".")
        if room in order and re.fullmatch(r"\w+", module):
            assert (ROOT / "distrib" / room / f"{module}.py").exists(), f"{code} is no module"


def test_the_readme_is_read_in_one_go():
    assert len(text_of("README.md").splitlines()) <= 120
    assert (ROOT / "docs" / "digits.svg").stat().st_size < 100_000
