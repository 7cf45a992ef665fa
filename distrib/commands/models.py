"""The model of an address, if it takes the images of the test split; else a refusal before anything starts."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from distrib.checkpoints import Checkpoint, verify
from distrib.data.beton import Beton
from distrib.data.loader import LoaderName, open_reader, shard
from distrib.errors import CheckpointError, JobError
from distrib.evaluation.models import Exported, Pickled, StoredModel, Weights, in_folder
from distrib.registry import versions
from distrib.world import World


def stored_at(address: str, trusted: bool) -> Checkpoint | Exported | Pickled:
    """What is stored at ``address``: a checkpoint folder, an MLflow folder, a .pt2 or a pickled file.

    Raises :class:`CheckpointError` where it is not there, is damaged, or could run code and is not ``trusted``.
    """
    path = Path(address).absolute()
    if not path.exists():
        raise CheckpointError(
            f"{path}: there is no such model; name models:/NAME/VERSION, a checkpoint folder, an MLflow model folder, "
            "or a .pt2 file"
        )
    return verify(path) if (path / "state.json").exists() else in_folder(path, trusted)


@dataclass(frozen=True)
class ModelFinder:
    """Where models are looked for, and what each must take."""

    split: Beton
    """The test split that they are judged on."""
    loader: LoaderName
    uri: str
    """Of MLflow, for addresses of registered models."""
    trusted: bool
    """Pickled models may be loaded: whatever code is in them runs."""
    say: Callable[[str], None]

    def at(self, address: str) -> StoredModel:
        """The model of ``address``.

        It names a registered version, a checkpoint folder, an MLflow folder, a .pt2 or a pickled file. Raises
        :class:`InputError` where it is not there, or was made for other images or classes than the split has.
        """
        if address.startswith("models:"):
            return self._registered(address)
        stored = stored_at(address, self.trusted)
        if not isinstance(stored, Checkpoint):
            return self._fitting(stored, address)
        if stored.job["model"].get("arch") == "custom" and not self.trusted:
            raise CheckpointError(
                f"{address}: its network is built by code that is kept with it (model.source); judge the registered "
                "model, which is a program, or set trust_pickle: true if you trust its source"
            )
        subject = Weights.of(stored.job["model"], self.split.card, stored.judged)
        subject.load(World().device)  # refuses weights of other images or classes before anything starts
        return subject

    def _registered(self, address: str) -> StoredModel:
        test = self.split.card
        height, width, channels = test.image
        subject, card = versions.fetch_subject(address, self.uri, self.trusted, self.say)
        image, classes = card.get("image"), card.get("classes") or ()
        mine = {"channels": channels, "height": height, "width": width}
        if image is not None and (image != mine or len(classes) != len(test.classes)):
            raise JobError(
                f"data: {len(test.classes)} classes of images {channels}x{height}x{width}, but {address} takes "
                f"{len(classes)} classes of {image}; name the data it was made for"
            )
        return subject if image is not None else self._fitting(subject, address)

    def _fitting(self, subject: StoredModel, address: str) -> StoredModel:
        """The subject. Raises :class:`JobError` unless it maps images of the test split to a logit a class."""
        test = self.split.card
        height, width, channels = test.image
        module = subject.load(World().device)
        # The batch that it will be judged on: one made here could lie otherwise in memory, which some networks feel
        (batch,) = shard(open_reader(self.split, self.loader), np.arange(min(2, test.count)), 2, World())
        try:
            with torch.no_grad():
                module(batch.x[:1])  # shards have any size, and so must batches
                logits = module(batch.x)
        except Exception as error:  # whatever the model's own code raises for images it was not made for
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise JobError(
                f"{address}: does not take float32 images [B, {channels}, {height}, {width}] ({reason}); name "
                "the data it was made for, and export it for any batch size (dynamic_shapes of torch.export)"
            ) from None
        if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != (len(batch.x), len(test.classes)):
            shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise JobError(
                f"{address}: gives {shape} for {len(batch.x)} images, not [{len(batch.x)}, {len(test.classes)}], "
                "a logit a class"
            )
        return subject
