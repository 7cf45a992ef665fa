"""Uses the model that distrib pull brought, on test images that came with it. Needs torch and safetensors; not distrib.

    python example.py

Two files hold the network. model.py makes it anew in torch and loads weights.safetensors: to train it further, to
attack or to change it. model/data/model.pt2 is the program that was registered and judged: it runs where the network's
own code is not, and no code that lies in it is run, since program.py looks through it before torch reads it.
"""

import json
from pathlib import Path

import program  # pyright: ignore[reportMissingImports] the module distrib.evaluation.program, beside this script
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

HERE = Path(__file__).resolve().parent


def attacked(net, x, y, norm, epsilon):
    """The worst images that 40 steps of projected gradient ascent find around ``x`` within epsilon (linf or l2)."""
    adversarial = x
    for _ in range(40):
        adversarial = adversarial.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(net(adversarial), y, reduction="sum"), adversarial)
        if norm == "linf":
            change = adversarial + 0.1 * epsilon * gradient.sign() - x
            change = change.clamp(-epsilon, epsilon)
        else:
            length = gradient.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
            change = adversarial + 0.1 * epsilon * gradient / length - x
            change = change * (epsilon / change.flatten(1).norm(dim=1).clamp_min(1e-12)).clamp_max(1).view(-1, 1, 1, 1)
        adversarial = (x + change).clamp(0, 1)
    return adversarial.detach()


def written(radius):
    """8/255 where it is that, and no short number; else the number."""
    levels, short = round(255 * radius), f"{radius:.6g}"
    return f"{levels}/255" if abs(levels / 255 - radius) < 1e-6 and len(short) > 5 else f"{radius:.3g}"


card = json.loads((HERE / "card.json").read_text())
classes, claim = card["classes"], card["claim"]
norm, epsilon = claim["norm"], claim["epsilon"]
kept = load_file(HERE / "test_images.safetensors")
x, y = kept["image"].float() / 255, kept["label"]  # float32 [B, C, H, W], pixels in [0, 1]; int64 [B]
net = program.load_program((HERE / "model" / "data" / "model.pt2").read_bytes())

columns = {"is": y, "predicted": net(x).argmax(dim=1)}
for share in (0.5, 1.0, 2.0) if norm != "l1" else ():  # an ascent under L1 is a page of its own
    columns[f"at epsilon {written(share * epsilon)}"] = net(attacked(net, x, y, norm, share * epsilon)).argmax(dim=1)
width = max(map(len, [*columns, *classes])) + 3
print("".join(name.ljust(width) for name in columns).rstrip())
for row in zip(*columns.values(), strict=True):
    print("".join(classes[label].ljust(width) for label in row).rstrip())
withstood = f"{claim['robust_accuracy']:.2%} of {claim['n']}"
print(f"\n{len(y)} images are no measurement: card.md has it, {withstood} withstood every attack at {written(epsilon)}")

if json.loads((HERE / "job.json").read_text())["model"].get("arch") == "custom":
    print("model.py: calls code of the model's author, which this script does not; look at it before you do")
elif (HERE / "model.py").exists():
    try:
        from model import load  # pyright: ignore[reportMissingImports] what distrib pull wrote beside this script

        same = torch.allclose(load()(x), net(x), rtol=1e-4, atol=1e-4)
    except Exception as error:  # a library that is not there, or of another version
        print(f"model.py: {error}; the program does without")
    else:
        print(
            "model.py: load() gives the same logits" if same else "model.py: load() gives OTHER logits; do not use it"
        )
