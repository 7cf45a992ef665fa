"""Add an objective: half of each loss on the images as they are (Goodfellow et al., arXiv 1412.6572, section 6)."""

import sys
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import distrib


@dataclass(frozen=True)
class Half:
    """alpha CE(f(x), y) + (1 - alpha) CE(f(x_adv), y)."""

    adversary: distrib.Adversary
    alpha: float = 0.5

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: distrib.Noise, epsilon_scale: float) -> Tensor:
        """The inner maximum: PGD on the cross-entropy, as in Madry et al."""
        return self.adversary.scaled(epsilon_scale).perturb(model, x, y, noise)

    def loss(self, forward, x: Tensor, x_adv: Tensor, y: Tensor) -> distrib.Outcome:
        """The outer loss, through one forward of both halves."""
        clean, adversarial = forward(torch.cat([x, x_adv])).chunk(2)
        loss = self.alpha * F.cross_entropy(clean, y) + (1 - self.alpha) * F.cross_entropy(adversarial, y)
        return distrib.Outcome(loss, adversarial)


EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 20
digits = load_digits()
x = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
y = torch.tensor(digits.target)
train, test = torch.arange(len(y)).split([1347, 450])

torch.manual_seed(0)
model = distrib.SmallCNN().build((1, 8, 8), num_classes=10, mean=[0.3], std=[0.37])
optim = distrib.SGD(name="sgd", lr=0.05, epochs=EPOCHS, batch_size=64)
state = distrib.State(model, optim, steps_per_epoch=len(train) // 64)
half = Half(distrib.Adversary(distrib.Linf(epsilon=0.1), distrib.PGD(num_steps=5)))

for epoch in range(EPOCHS):
    for index in train[torch.randperm(len(train))].split(64)[: state.steps_per_epoch]:
        noise = distrib.Noise.of(index, 0, "attack", epoch)
        step = distrib.update(state, distrib.Batch(x[index], y[index], index), half, noise, epsilon_scale=1.0)

model.eval()
x_adv = half.adversary.perturb(model, x[test], y[test], distrib.Noise.of(test, 0, "test"))
for name, images in (("clean", x[test]), ("PGD-5", x_adv)):
    accuracy = (model(images).argmax(dim=1) == y[test]).float().mean()
    print(f"test accuracy, {name}: {accuracy:.1%}")
