#!/usr/bin/env bash
# The black-box rows of CIFAR-10 in docs/results.md: `bash benchmarks/cifar10_transfer.sh DATA`, where DATA holds train/ and
# test/ with a folder a class. Two to three hours, by an estimate, on 2 cores of Zen 5, a third of it AutoAttack on A;
# what is complete already is told again. Table and sheet: runs/study-transfer/study.
set -euo pipefail
cd "$(dirname "$0")/.."
root=${1:?the folder that holds train/ and test/, each with a folder a class}
data="data={source: folder, root: $root, validation: 0.02}"
run() { PATH="$PWD/.venv/bin:$PATH" distrib run "jobs/$1.yaml" --set "$data" "${@:2}"; }
brief='evaluation={threat: {norm: linf, epsilon: 8/255}, n: 1000, attacks: [{attack: fgsm}]}'

run cifar10-cpu
run cifar10-cpu --set name=cifar10-cpu-b --set seed=1 --set "$brief"
run cifar10-cpu --set name=cifar10-cpu-natural --set 'objective={method: natural}' --set optim.epochs=5 \
  --set validation.every=5 --set "$brief"

A='{label: A, model: "models:/cifar10-cpu/1"}'
same='{label: A-seed-1, model: "models:/cifar10-cpu-b/1"}'
natural='{label: natural, model: "models:/cifar10-cpu-natural/1"}'
run study-transfer --set study.threat.epsilon=8/255 --set study.shard_size=1000 \
  --set "study.sources=[$A, $same, $natural]" --set "study.targets=[$A]" \
  --set 'study.attacks=[{attack: fgsm}, {attack: pgd, num_steps: 7, step_size: 2/255}]'
