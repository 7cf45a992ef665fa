"""Add an objective: MART (Wang et al., ICLR 2020), which weighs the images that are misclassified without an attack."""

import sys
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import distrib


@dataclass(frozen=True)
class Mart:
    """Boosted cross-entropy on x_adv, plus beta KL(f(x) || f(x_adv)) (1 - p_y(x)): equation 11 of the paper."""

    adversary: distrib.Adversary
    beta: float = 5.0
    epsilon_warmup_epochs: float = 0.0

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: distrib.Noise, epsilon_scale: float) -> Tensor:
        """The inner maximum: PGD on the cross-entropy, as in Madry et al."""
        return self.adversary.scaled(epsilon_scale).perturb(model, x, y, noise)

    def loss(self, forward, x: Tensor, x_adv: Tensor, y: Tensor) -> distrib.Outcome:
        """The outer loss, through one forward of both halves."""
        clean, adversarial = forward(torch.cat([x, x_adv])).chunk(2)
        p_clean, p_adv = clean.softmax(dim=1), adversarial.softmax(dim=1)
        wrong = p_adv.scatter(1, y[:, None], 0.0).amax(dim=1)  # the likeliest wrong class
        boosted = F.cross_entropy(adversarial, y, reduction="none") - torch.log1p(-wrong.clamp(max=1 - 1e-6))
        kl = F.kl_div(p_adv.clamp_min(1e-12).log(), p_clean, reduction="none").sum(dim=1)
        doubt = 1 - p_clean.gather(1, y[:, None])[:, 0]
        return distrib.Outcome((boosted + self.beta * kl * doubt).mean(), adversarial)


EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 20
digits = load_digits()
x = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
y = torch.tensor(digits.target)
train, test = torch.arange(len(y)).split([1347, 450])

torch.manual_seed(0)
model = distrib.SmallCNN().build((1, 8, 8), num_classes=10, mean=[0.3], std=[0.37])
optim = distrib.SGD(name="sgd", lr=0.05, epochs=EPOCHS, batch_size=64)
state = distrib.State(model, optim, steps_per_epoch=len(train) // 64)
mart = Mart(distrib.Adversary(distrib.Linf(epsilon=0.1), distrib.PGD(num_steps=5)))

for epoch in range(EPOCHS):
    for index in train[torch.randperm(len(train))].split(64)[: state.steps_per_epoch]:
        noise = distrib.Noise.of(index, 0, "attack", epoch)
        step = distrib.update(state, distrib.Batch(x[index], y[index], index), mart, noise, epsilon_scale=1.0)

model.eval()
x_adv = mart.adversary.perturb(model, x[test], y[test], distrib.Noise.of(test, 0, "test"))
for name, images in (("clean", x[test]), ("PGD-5", x_adv)):
    accuracy = (model(images).argmax(dim=1) == y[test]).float().mean()
    print(f"test accuracy, {name}: {accuracy:.1%}")
