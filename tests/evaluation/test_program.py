"""distrib.evaluation.program: a .pt2 file runs no code that lies in it, wherever it lies."""

import io
import json
import os
import pickle
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from distrib.errors import CheckpointError
from distrib.evaluation.models import in_folder

CPU = torch.device("cpu")
PROGRAM, SAMPLE = "models/model.json", "data/sample_inputs/model.pt"
WEIGHTS, CONSTANTS = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"


def exported(module: nn.Module) -> bytes:
    """Of images 1x8x8, for a batch of any size."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.export, about its own internals
        shapes = ({0: torch.export.Dim("batch", min=1)},)
        torch.export.save(torch.export.export(module, (torch.rand(4, 1, 8, 8),), dynamic_shapes=shapes), file)
    return file.getvalue()


class Marks:
    """What leaves a file where it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


class Case:
    """The members of a program, to be changed."""

    def __init__(self, content: bytes, mark: Path):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            self.members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
        self.root, self.twice, self.mark = "archive/", {}, mark
        self.code = f"__import__('pathlib').Path('{mark}').touch()"

    def saved(self) -> bytes:
        """The mark's object as torch.save writes it."""
        file = io.BytesIO()
        torch.save(Marks(self.mark), file)
        return file.getvalue()

    def edit(self, name: str, change: Callable[[dict], object]) -> None:
        document = json.loads(self.members[name])
        change(document)
        self.members[name] = json.dumps(document).encode()

    def written(self) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a name that is there twice
            for name, part in [*self.twice.items(), *self.members.items()]:
                archive.writestr(self.root + name, part)
        return out.getvalue()


def sample_inputs(case: Case) -> None:
    case.members[SAMPLE] = case.saved()


def sample_inputs_twice(case: Case) -> None:
    case.twice[SAMPLE] = case.saved()


def legacy_weights(case: Case) -> None:
    case.members["data/weights/model.pt"] = case.saved()


def legacy_constants(case: Case) -> None:
    case.members["data/constants/model.pt"] = case.saved()


def pickled_weight(case: Case) -> None:
    case.edit(WEIGHTS, lambda found: next(iter(found["config"].values())).update(use_pickle=True))
    case.members["data/weights/weight_0"] = case.saved()


def constant(case: Case, name: str, content: bytes) -> None:
    entry = {"path_name": name, "is_param": False, "use_pickle": True, "tensor_meta": None}
    case.edit(CONSTANTS, lambda found: found["config"].update(x=entry))
    case.members[f"data/constants/{name}"] = content


def pickled_constant(case: Case) -> None:
    constant(case, "tensor_0", case.saved())


def opaque_constant(case: Case) -> None:
    constant(case, "opaque_obj_0", pickle.dumps(Marks(case.mark)))


def custom_constant(case: Case) -> None:
    constant(case, "custom_obj_0", case.saved())


def format_of_torch_2_7(case: Case) -> None:
    version = json.loads(case.members[PROGRAM])["schema_version"]
    case.root, case.members = "", {
        "version": f"{version['major']}.{version['minor']}".encode(),
        "serialized_exported_program.json": case.members[PROGRAM],
        "serialized_state_dict.pt": case.saved(),
        "serialized_constants.pt": case.saved(),
        "serialized_example_inputs.pt": case.saved(),
    }  # fmt: skip


def compiled_library(case: Case) -> None:
    case.members["data/aotinductor/model/model.so"] = b"\x7fELF"


def guard(case: Case) -> None:
    case.edit(PROGRAM, lambda found: found["guards_code"].append(case.code))


def shape(case: Case) -> None:
    def change(found: dict) -> None:
        sizes = [one for value in found["graph_module"]["graph"]["tensor_values"].values() for one in value["sizes"]]
        next(one for one in sizes if "as_expr" in one)["as_expr"]["expr_str"] = case.code

    case.edit(PROGRAM, change)


def name_of_an_input(case: Case) -> None:
    text = case.members[PROGRAM].decode()
    assert '"name": "x"' in text and '"x": {' in text
    case.members[PROGRAM] = (
        text.replace('"name": "x"', f'"name": "x={case.code}"').replace('"x": {', f'"x={case.code}": {{').encode()
    )


def type_of_the_arguments(case: Case) -> None:
    """A tree of arguments may name a module, which is imported."""
    room = case.mark.parent / "path"
    room.mkdir()
    (room / "distrib_test_trap.py").write_text(f"{case.code}\nt = dict\n")
    sys.path.append(str(room))
    context = {"default_factory_module": "distrib_test_trap", "default_factory_name": "t", "dict_context": []}
    tree = {"type": "collections.defaultdict", "context": context, "children_spec": []}

    def change(found: dict) -> None:
        found["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = json.dumps([1, tree])

    case.edit(PROGRAM, change)


def operation(case: Case) -> None:
    node = {
        "target": "torch.os.system", "inputs": [{"name": "", "arg": {"as_string": f"touch {case.mark}"}, "kind": 1}],
        "outputs": [{"as_none": True}], "metadata": {}, "is_hop_single_tensor_return": None, "name": "ran",
    }  # fmt: skip
    case.edit(PROGRAM, lambda found: found["graph_module"]["graph"]["nodes"].insert(0, node))


EXPLOITS = [
    sample_inputs, sample_inputs_twice, legacy_weights, legacy_constants, pickled_weight, pickled_constant,
    opaque_constant, custom_constant, format_of_torch_2_7, compiled_library, guard, shape, name_of_an_input,
    type_of_the_arguments, operation,
]  # fmt: skip


class Net(nn.Module):
    """What torch writes down of common code: sizes that are computed, blocks without gradients, texts, constants."""

    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(1, 4, 3), nn.Linear(4 * 36, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            mean = x.mean()
        y = self.conv(nn.functional.interpolate(x - mean, size=(8, 8), mode="bilinear"))
        y = y.reshape(x.shape[0] * 2, -1).reshape(x.size(0), -1)
        logits = torch.einsum("bi,oi->bo", y, self.last.weight) + torch.tensor([0.5] * 10)
        return torch.cat([logits, logits * x.shape[0]])[: x.shape[0]].softmax(1)


class Plain(nn.Module):
    """One layer."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x.flatten(1))


@pytest.fixture(scope="module")
def plain() -> bytes:
    return exported(Plain().eval())


@pytest.fixture
def case(plain: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setattr(sys, "path", [*sys.path])
    return Case(plain, tmp_path / "mark")


@pytest.mark.parametrize("change", EXPLOITS, ids=lambda change: change.__name__)
def test_a_program_runs_no_code_that_lies_in_it(case: Case, tmp_path: Path, change: Callable[[Case], None]):
    change(case)
    (tmp_path / "model.pt2").write_bytes(case.written())
    try:
        with pytest.raises(CheckpointError) as told:
            in_folder(tmp_path / "model.pt2", False).load(CPU)(torch.rand(2, 1, 8, 8))
    finally:
        assert not case.mark.exists(), "code of the file was run"
    assert str(tmp_path / "model.pt2") in str(told.value) and "trust_pickle: true" in str(told.value)
    assert "\n" not in str(told.value)


def test_a_program_that_is_trusted_is_loaded_as_torch_does(case: Case, tmp_path: Path):
    """The one way past: the mark is there."""
    sample_inputs(case)
    (tmp_path / "model.pt2").write_bytes(case.written())
    with pytest.raises(CheckpointError):
        in_folder(tmp_path, True).load(CPU)
    assert case.mark.exists()


def test_what_networks_are_made_of_is_let_through(tmp_path: Path):
    net = Net().eval()
    (tmp_path / "model.pt2").write_bytes(exported(net))
    loaded = in_folder(tmp_path, False).load(CPU)
    for size in (1, 5):
        x = torch.rand(size, 1, 8, 8)
        assert torch.allclose(loaded(x), net(x), atol=1e-6)
