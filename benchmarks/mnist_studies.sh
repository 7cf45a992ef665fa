#!/usr/bin/env bash
# The studies of docs/results.md on real MNIST: `bash benchmarks/mnist_studies.sh DATA`, where DATA holds MNIST/raw. An hour
# and a quarter on 2 cores; what is complete already is told again. Tables, plots and sheets: runs/study-*/study.
set -euo pipefail
cd "$(dirname "$0")/.."
root=${1:?the folder that holds MNIST/raw}
data="data={source: mnist, root: $root}"
run() { PATH="$PWD/.venv/bin:$PATH" distrib run "jobs/$1.yaml" "${@:2}"; }
train() { run mnist --set "data.root=$root" --set "name=$1" --set 'evaluation={tier: quick}' "${@:2}"; }

train mnist
train mnist-b --set seed=1
train mnist-natural --set 'objective={method: natural}' --set optim.epochs=3 \
  --set 'evaluation={tier: quick, threat: {norm: linf, epsilon: 0.3}}'
train mnist-paper --set 'model={arch: paper_cnn, width: 0.25}' --set optim.epochs=5 --set optim.lr=1e-3 \
  --set optim.warmup_epochs=1 --set objective.epsilon_warmup_epochs=1

A='{label: A, model: "models:/mnist/1"}'
same='{label: A-seed-1, model: "models:/mnist-b/1"}'
natural='{label: natural, model: "models:/mnist-natural/1"}'
robust='{label: robust, model: "models:/mnist/1"}'
B='{label: B, model: "models:/mnist-paper/1"}'

run study-landscape --set "$data" --set study.threat.epsilon=0.3 --set "study.models=[$natural, $robust]"
run study-curves --set "$data" --set "study.models=[$natural, $robust]" --set 'study.l2=[0, 0.5, 1, 2, 3, 4.5, 6, 8]' \
  --set 'study.linf=[0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5]'
run study-transfer --set "$data" --set study.threat.epsilon=0.3 --set study.shard_size=1000 \
  --set "study.sources=[$A, $same, $natural, $B]" --set "study.targets=[$A, $same, $natural, $B]"
run study-transfer --set name=study-transfer-long --set "$data" --set study.threat.epsilon=0.3 --set study.n=1000 \
  --set "study.sources=[$A, $same]" --set "study.targets=[$A]" \
  --set 'study.attacks=[{attack: pgd, num_steps: 100, step_size: 0.01, restarts: 20}]'
run study-capacity --set "data.root=$root" --set data.limit=20000 --set 'study.widths=[0.0625, 0.125, 0.25, 0.5]' \
  --set study.attack.num_steps=10 --set study.attack.step_size=0.06 --set study.optim.lr=1e-3 --set study.optim.epochs=6 \
  --set study.epsilon_warmup_epochs=2 --set study.n=2000
