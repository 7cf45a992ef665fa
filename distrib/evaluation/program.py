"""Loads a program of torch.export (.pt2) and runs no code that lies in it. Needs torch alone; not distrib.

torch.export.load trusts its file: it unpickles sample inputs, weights and constants, opens compiled libraries, and
evaluates text of the program itself as Python (shapes, guards, names). MLflow's check
(MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false) looks for pickles alone. Here a file is refused unless each of its members
is known, its weights are plain numbers, and every text in it is a word, a shape or an operation of a network.
"""

import io
import json
import re
import zipfile

import torch
from torch import nn

TEXTS = re.compile(r"(archive_format|archive_version|byteorder|version|\.data/(version|serialization_id))")
TENSORS = re.compile(r"data/(weights/weight|constants/tensor)_\d+")
CONFIGS = {"data/weights/model_weights_config.json": "weight", "data/constants/model_constants_config.json": "tensor"}
PROGRAM = "models/model.json"
SAMPLE = "data/sample_inputs/model.pt"
"""The one pickle that torch.export.save writes for a network; torch.load reads its tensors without running code."""

WORD = re.compile(r"[\w.+-]*", re.ASCII)
"""A name, of a module too: it calls nothing, wherever torch puts it into Python code."""
CONSTANT = re.compile(r"[\w .,:<>=*/+()-]*", re.ASCII)
"""An argument of an operation, such as an einsum's: kept as text, and never in quotes of its own."""
SYMBOL = r"([suz]f?\d+\b|Symbol\('[suz]f?\d+'(, [a-z]+=True)*\))"
SHAPE = re.compile(
    rf"({SYMBOL}(\*\*[2-9])?|Pow\({SYMBOL}, Integer\((-1|[2-9])\)\)|\b\d+(\.\d+)?\b|L\['\w+'\]|\[\d+\]|\.size\(\)"
    r"|/|\*(?!\*)|[-+%(), ]|[<>!=]=|[<>](?![<>])|\b(Integer|Add|Mul|Min|Max|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv"
    r"|ModularIndexing|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|Equality|Unequality|StrictLessThan|LessThan|StrictGreaterThan"
    r"|GreaterThan|and|or|not|true|false|True|False)\b)*",
    re.ASCII,
)
"""The arithmetic of sizes. torch evaluates it as Python: no other name, no text, and no power that fills the memory."""
OPERATIONS = re.compile(
    r"torch\.ops\.aten\.(?!from_file\b)(_?[a-zA-Z]\w*|__(and|or|xor|lshift|rshift)__)\.[a-zA-Z]\w*"
    r"|torch\.sym_(not|int|float|ite|max|min|sqrt)|torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast|cond)"
    r"|math\.trunc|_operator\.(eq|ne|le|ge|lt|gt|neg|pos|mul|add|sub|floordiv|truediv|mod|and_|or_|getitem)",
    re.ASCII,
)
"""What a network computes with. Any other name that torch can be reached by is called too: torch.os.system."""
TREES = {"builtins.tuple", "builtins.list", "builtins.dict", None}


class MayRunCode(ValueError):
    """Loading the program could run code that lies in it; the message names the member."""


def load_program(content: bytes) -> nn.Module:
    """The module of a program, on the device that it was exported on. Raises :class:`MayRunCode`.

    Its ``eval()`` and ``train()`` change nothing (torch's own raise an error): it is in evaluation mode for good.
    """
    module = torch.export.load(io.BytesIO(checked(content))).module(check_guards=False)
    module.train = module.eval = lambda mode=True: module  # pyright: ignore[reportAttributeAccessIssue]
    return module


def checked(content: bytes) -> bytes:
    """The program written anew, without its sample inputs: what torch then reads is what was looked at.

    Raises :class:`MayRunCode`; and, where it is damaged or no program, whatever its readers raise.
    """
    if content[-22:-18] != b"PK\5\6":  # else the end of an archive inside it would be taken for its own
        raise zipfile.BadZipFile("cut short")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [one for one in archive.infolist() if not one.is_dir()]
        names = [one.filename.partition("/")[2] for one in members]
        roots = {one.filename.partition("/")[0] for one in members}
        if PROGRAM not in names and "serialized_exported_program.json" not in archive.namelist():
            raise zipfile.BadZipFile("another archive")
        if len(roots) != 1 or len(set(names)) != len(names) or any(one.compress_type for one in members):
            raise MayRunCode("its members are not those that torch.export.save writes")
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as copy:
            for name, member in zip(names, members, strict=True):
                if name.startswith("extra/"):
                    continue
                part = archive.read(member)
                _look(name, part)
                copy.writestr(f"archive/{name}", b"" if name == SAMPLE else part)
    return out.getvalue()


def _look(name: str, part: bytes) -> None:
    if name == SAMPLE:
        try:
            torch.load(io.BytesIO(part), map_location="cpu", weights_only=True)
        except Exception:  # whatever the reader raises for what it does not know
            raise MayRunCode(f"{name}: would be unpickled, and is more than tensors") from None
    elif TEXTS.fullmatch(name):
        _word(name, part.decode(errors="replace").strip(), WORD)
    elif name in CONFIGS:
        document = json.loads(part)
        _words(name, "", document)
        for entry in document["config"].values():
            if entry["use_pickle"] is not False or not re.fullmatch(rf"{CONFIGS[name]}_\d+", entry["path_name"]):
                raise MayRunCode(f"{name}: {entry['path_name']} would be unpickled")
    elif name == PROGRAM:
        _words(name, "", json.loads(part))
    elif not TENSORS.fullmatch(name):
        raise MayRunCode(f"{name}: would be unpickled or run, or is not known")


def _words(member: str, key: str, value: object) -> None:
    """Raises :class:`MayRunCode` unless every text at ``key`` and below it is of the kind that belongs there."""
    match value:
        case dict():
            if key == "metadata":  # comments, such as the lines of Python that a node comes from
                return
            for name, inside in value.items():
                _word(member, name, WORD)
                _words(member, name, inside)
        case list():
            for one in value:
                _words(member, key, one)
        case str():
            match key:
                case "in_spec" | "out_spec":
                    _tree(member, json.loads(value)[1])
                case "expr_str" | "guards_code":
                    _word(member, value, SHAPE)
                case "target" | "as_operator":
                    _word(member, value, OPERATIONS)
                case "as_string" | "as_strings":
                    _word(member, value, CONSTANT)
                case _:
                    _word(member, value, WORD)


def _tree(member: str, tree: dict) -> None:
    """Raises :class:`MayRunCode` unless ``tree`` is of tuples, lists and dicts: others import what they name."""
    if tree["type"] not in TREES:
        raise MayRunCode(f"{member}: its arguments hold a {str(tree['type'])[:80]}")
    for one in tree["children_spec"]:
        _tree(member, one)


def _word(member: str, text: str, kind: re.Pattern) -> None:
    if len(text) > 1000 or not kind.fullmatch(text):
        raise MayRunCode(f"{member}: {text[:80]!r} is no word, shape or operation of a network")
