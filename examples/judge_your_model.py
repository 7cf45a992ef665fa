"""Judge a plain torch module as a job would, and print its robustness card: attacks, probes, an interval, flags."""

import torch
from sklearn.datasets import load_digits
from torch import nn

import distrib

digits = load_digits()
x = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]  # pixels in [0, 1]
y = torch.tensor(digits.target)
x_test, y_test = x[-200:], y[-200:]

torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))  # your own: pixels to logits
optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(60):
    optimiser.zero_grad()
    nn.functional.cross_entropy(model(x[:-200]), y[:-200]).backward()
    optimiser.step()

# quick: FGSM and PGD-20. A figure to publish wants tier="standard" (AutoAttack) or "paranoid", and every test image.
card = distrib.evaluate(model, x_test, y_test, distrib.Linf(epsilon=0.1), "quick")

print(card)
low, high = card.interval
print(f"robust accuracy {card.robust_accuracy:.1%}, between {low:.1%} and {high:.1%}")
print(f"not to be used: {', '.join(card.blocking)}" if card.blocking else "no flag forbids its use")
