"""The list of what is registered: quick, whole, in the order that was asked for."""

import subprocess
import sys

import torch
from cards import FLAGGED, attach, claim, register

from distrib.evaluation.models import Weights
from distrib.registry.listing import list_versions, ordered
from distrib.tracking.client import connect


def test_a_version_says_what_network_it_is_and_of_which_data(weights: Weights, uri: str):
    for robust in (0.5, 0.6):
        register(weights, uri, claim(robust), name="listed", same=robust == 0.5)
    newer, older = list_versions(uri, "listed")
    count = sum(tensor.numel() for tensor in weights.load(torch.device("cpu")).parameters())
    assert (older["arch"], older["data"], older["parameters"], older["tier"]) == (
        "small_cnn", "digits", count, "standard"
    )  # fmt: skip
    assert newer["model"] == "models:/listed/2" and newer["created"] >= older["created"] > "2026-01-01 00:00"
    assert list_versions(uri, "nothing") == [] and len(list_versions(uri)) >= 2


def test_the_best_and_the_newest_come_first_and_the_unknown_last():
    rows = [
        {"model": name, "robust_accuracy": robust, "clean_accuracy": clean, "created": date}
        for name, robust, clean, date in (("a", 0.3, 0.9, "2"), ("b", None, None, "3"), ("c", 0.5, 0.8, "1"))
    ]
    order = {by: "".join(row["model"] for row in ordered(rows, by)) for by in ("name", "robust", "clean", "date")}
    assert order == {"name": "abc", "robust": "cab", "clean": "acb", "date": "bac"}


def test_it_does_without_torch():
    """Which takes longer to import than a list of models takes."""
    code = "import sys, distrib.registry.listing, distrib.cli.verbs, distrib.cli.text; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr


def test_a_registered_model_says_what_it_is_and_how_to_get_its_best_version(weights: Weights, uri: str):
    """Until a person writes something else there."""

    def described() -> str:
        return connect(uri).get_registered_model("told").description

    register(weights, uri, claim(0.9, tier="quick"), name="told")
    assert "No version is champion yet." in described() and "distrib pull told@latest-robust DIR" in described()
    register(weights, uri, claim(0.5), name="told")
    assert "The best version is 2 (champion): 50.00% of 100 test images of digits withstand" in described()
    assert "linf up to 0.1 (tier standard); 90.00% without one" in described()
    assert "distrib.load('models:/told@champion')" in described()
    register(weights, uri, claim(0.4), name="told")
    assert "The best version is 2" in described()
    attach(weights, uri, "models:/told/2", claim(0.2, flags=FLAGGED))
    assert "20.00% of 100 test images" in described() and f"Do not use this figure: {FLAGGED[0].name}" in described()
    connect(uri).update_registered_model("told", "Ours, for the traffic lights.")
    register(weights, uri, claim(0.7), name="told")
    assert described() == "Ours, for the traffic lights."
