"""Checks adversarial images against the test images they were made from, and scores a model on them.

    python validate.py MODEL [--images FILE.safetensors]

MODEL: an MLflow model folder or a program of torch.export (.pt2) that maps pixels in [0, 1] to logits. One that could
run code when it is loaded (a pickle) is refused, unless --trust-pickle says that its source is trusted.
FILE: tensors x_adv (float32 [N, C, H, W]) and index (int64 [N]); without it, the images beside this script.
Needs torch, safetensors and program.py beside it (and mlflow for a pickled MLflow model). Exit status 1 where an image
breaks the rules, or the model is refused.
"""

import argparse
import json
import sys
from pathlib import Path

import program  # pyright: ignore[reportMissingImports] the module distrib.evaluation.program, beside this script
import torch
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Checks, scores, prints."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("model", type=Path)
    words.add_argument("--images", type=Path, default=HERE / "adversarial.safetensors")
    words.add_argument("--batch-size", type=int, default=250)
    words.add_argument("--trust-pickle", action="store_true", help="load a MODEL that could run code")
    options = words.parse_args()
    spec = json.loads((HERE / "attack.json").read_text())
    truth, given = load_file(HERE / "adversarial.safetensors"), load_file(options.images)
    place = {index: row for row, index in enumerate(truth["index"].tolist())}
    unknown = [index for index in given["index"].tolist() if index not in place]
    if unknown or len(set(given["index"].tolist())) != len(given["index"]):
        print(f"refused: indices that are twice or not in the set, such as {unknown[:3]}")
        return 1
    rows = torch.tensor([place[index] for index in given["index"].tolist()])
    x, y, x_adv = truth["x"][rows].float() / 255, truth["label"][rows], given["x_adv"]
    if x_adv.dtype != torch.float32 or x_adv.shape != x.shape:
        print(f"refused: x_adv is {x_adv.dtype} {tuple(x_adv.shape)}, not float32 {tuple(x.shape)}")
        return 1
    delta = (x_adv - x).flatten(1)
    size = torch.linalg.vector_norm(delta, ord=float(spec["norm"].removeprefix("l")), dim=1)  # linf, l2
    far = ~(size <= spec["epsilon"] + 1e-6 * max(1.0, spec["epsilon"]))
    out = ~((x_adv.flatten(1).amin(dim=1) >= 0) & (x_adv.flatten(1).amax(dim=1) <= 1))
    if (far | out).any():
        worst = size.nan_to_num(float("inf")).max().item()
        print(f"refused: {int(far.sum())} images lie outside the {spec['norm']} ball of {spec['epsilon']:.6g} "
              f"(the farthest at {worst:.6g}), {int(out.sum())} outside [0, 1]")  # fmt: skip
        return 1
    try:
        model = load(options.model, options.trust_pickle)
    except ValueError as error:
        print(f"refused: {options.model}: {error}; --trust-pickle loads it if you trust its source")
        return 1
    with torch.no_grad():
        scores = {}
        for name, images in (("clean", x), ("adversarial", x_adv)):
            hits = [
                predicted(model(a)) == b
                for a, b in zip(images.split(options.batch_size), y.split(options.batch_size), strict=True)
            ]
            scores[name] = torch.cat(hits)
    both = scores["clean"] & scores["adversarial"]
    print(f"{len(y)} images, {spec['norm']} epsilon {spec['epsilon']:.6g}, largest perturbation {size.max():.6g}")
    print(f"clean accuracy        {scores['clean'].float().mean():.2%}")
    print(f"on the attacked alone {scores['adversarial'].float().mean():.2%}")
    print(f"adversarial accuracy  {both.float().mean():.2%} (rightly classified both as they are and attacked)")
    return 0


def predicted(logits: torch.Tensor) -> torch.Tensor:
    """The class of each row; -1, no class, where it holds NaN or its largest logit is infinite."""
    largest, label = logits.max(dim=1)
    return torch.where(largest.isfinite(), label, -1)


def load(path: Path, trusted: bool):
    """The model of an MLflow folder or a .pt2 file. Raises ValueError where it could run code and is not trusted."""
    own = path / "data" / "model.pt2"  # where MLflow keeps it
    programs = [path] if path.suffix == ".pt2" else [own] if own.exists() else sorted(path.rglob("*.pt2"))
    if len(programs) > 1:
        raise ValueError(f"holds {len(programs)} programs; name the one that is meant")
    if programs and not trusted:
        return program.load_program(programs[0].read_bytes())
    if programs:
        return torch.export.load(programs[0]).module()
    if not trusted:
        raise ValueError("holds no program of torch.export (.pt2), and a pickle could run code")
    from mlflow.pytorch import load_model

    return load_model(str(path)).eval()


if __name__ == "__main__":
    sys.exit(main())
