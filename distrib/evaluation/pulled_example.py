"""Uses the model as distrib pull brought it. Needs torch and program.py beside this script; not distrib.

    python example.py

It runs no code that lies in the model: program.py looks through it before torch reads it.
"""

import json
from pathlib import Path

import program  # pyright: ignore[reportMissingImports] the module distrib.evaluation.program, beside this script
import torch

HERE = Path(__file__).resolve().parent

card = json.loads((HERE / "card.json").read_text())
channels, height, width = (card["image"][side] for side in ("channels", "height", "width"))
model = program.load_program((HERE / "model" / "data" / "model.pt2").read_bytes())
images = torch.rand(4, channels, height, width)  # float32 [B, C, H, W], pixels in [0, 1]
with torch.no_grad():
    logits = model(images)
print([card["classes"][i] for i in logits.argmax(dim=1).tolist()])
