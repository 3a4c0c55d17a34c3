"""Random states in checkpoints, so that a resumed run draws the same dropout as one that was never interrupted."""

from __future__ import annotations

import random
from typing import Any

import numpy
import torch
from lightning import Callback, LightningModule, Trainer

from peftlit.errors import CheckpointError


class RandomStates(Callback):
    """Save the state of every random generator of every rank; put it back before the first batch after a resume.

    Not before: making loaders and their iterators draws from them too.
    """

    def __init__(self) -> None:
        self._loaded: list[dict[str, Any]] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return each rank's states; all ranks have to ask."""
        own = _states()
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return {"ranks": [own]}
        ranks: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(ranks, own)
        return {"ranks": ranks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until training goes on.

        Args:
            state_dict: What :meth:`state_dict` returned.
        """
        self._loaded = state_dict["ranks"]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Put the states back, once.

        Args:
            trainer: The trainer.
            pl_module: The module.
            batch: Not used.
            batch_idx: Not used.

        Raises:
            CheckpointError: Another number of processes wrote the checkpoint.
        """
        if self._loaded is None:
            return
        if len(self._loaded) != trainer.world_size:
            raise CheckpointError(
                f"the checkpoint was written by {len(self._loaded)} processes and cannot be continued by "
                f"{trainer.world_size}; set trainer.devices: {len(self._loaded)}"
            )
        _restore(self._loaded[trainer.global_rank])
        self._loaded = None


def _states() -> dict[str, Any]:
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = numpy.random.get_state()
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(numbers), gauss],
        "numpy": [str(kind), [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _restore(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, position, has_gauss, cached = states["numpy"]
    numpy.random.set_state((kind, numpy.array(keys, dtype=numpy.uint32), position, has_gauss, cached))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
