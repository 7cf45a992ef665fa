"""Train a robust network in this process: a state, an objective and the step, without Ray, MLflow or files."""

import sys

import torch
from sklearn.datasets import load_digits

import distrib

EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 20
SEED, BATCH = 0, 64

digits = load_digits()
x = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
y = torch.tensor(digits.target)
train, test = torch.arange(len(y)).split([1347, 450])

torch.manual_seed(SEED)
model = distrib.SmallCNN().build((1, 8, 8), num_classes=10, mean=[0.3], std=[0.37])
optim = distrib.SGD(name="sgd", lr=0.1, epochs=EPOCHS, batch_size=BATCH)
state = distrib.State(model, optim, steps_per_epoch=len(train) // BATCH)

adversary = distrib.Adversary(distrib.Linf(epsilon=0.1), distrib.PGD(num_steps=5))
objective = distrib.Madry(method="madry", threat=adversary.threat, attack=adversary.attack)

for epoch in range(EPOCHS):
    order = train[torch.randperm(len(train))]
    for index in order.split(BATCH)[: state.steps_per_epoch]:
        noise = distrib.Noise.of(index, SEED, "attack", epoch)  # of the sample, wherever it stands in the batch
        distrib.update(state, distrib.Batch(x[index], y[index], index), objective, noise, epsilon_scale=1.0)

model.eval()
x_adv = adversary.perturb(model, x[test], y[test], distrib.Noise.of(test, SEED, "test"))
for name, images in (("clean", x[test]), ("PGD-5", x_adv)):
    accuracy = (model(images).argmax(dim=1) == y[test]).float().mean()
    print(f"test accuracy, {name}: {accuracy:.1%}")
