"""Attack a plain torch model: how often does it withstand PGD? No job file, no Ray; a few seconds."""

import torch
from sklearn.datasets import load_digits
from torch import nn

import distrib

digits = load_digits()
x = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]  # pixels in [0, 1], [N, 1, 8, 8]
y = torch.tensor(digits.target)

torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(60):  # ordinary training, on all images at once
    optimiser.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimiser.step()

x_adv = distrib.perturb(model, x, y, distrib.Linf(epsilon=0.1), distrib.PGD(num_steps=20))  # max over delta in S

for name, images in (("clean", x), ("PGD-20", x_adv)):
    accuracy = (model(images).argmax(dim=1) == y).float().mean()
    print(f"accuracy, {name}: {accuracy:.1%}")
