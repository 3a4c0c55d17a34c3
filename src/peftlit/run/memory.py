"""Peak memory, and what to say when memory ran out."""

from __future__ import annotations

import resource
import sys
from typing import Any

import torch
from lightning import LightningDataModule, Trainer

from peftlit.modules.base import PeftModule

_HOST_SIGNS = ("DefaultCPUAllocator", "not enough memory", "Cannot allocate memory", "can't allocate memory")
_SIGNS = (*_HOST_SIGNS, "OutOfMemoryError", "MemoryError", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception means that host or device memory ran out.

    Args:
        error: The exception.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, (RuntimeError, OSError)) and any(sign in str(error) for sign in _HOST_SIGNS)


def says_out_of_memory(line: str) -> bool:
    """Tell whether the last line of another process's traceback means that memory ran out.

    Args:
        line: The line.
    """
    return any(sign in line for sign in _SIGNS)


def peak_mib() -> float:
    """Return the peak memory of this process in MiB: on the device where there is one, else on the host."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss counts bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def explain_out_of_memory(error: BaseException, module: Any, data: LightningDataModule | None, trainer: Trainer) -> str:
    """Say in one line what ran out, at which batch shape and peak, and the change most likely to fit.

    Args:
        error: What was raised.
        module: The module.
        data: The data module.
        trainer: The trainer.
    """
    where = "device" if isinstance(error, torch.OutOfMemoryError) else "host"
    shape = getattr(module, "batch_shape", ())
    at = f"at batch shape {shape[0]} x {shape[1]} (rows x tokens)" if shape else "before the first batch"
    advice = _advice(module, data, trainer, bool(shape))
    return f"out of {where} memory {at}, peak {peak_mib():,.0f} MiB; most likely to fit: {advice}"


def _advice(module: Any, data: LightningDataModule | None, trainer: Trainer, reached_a_batch: bool) -> str:
    backbone = getattr(module, "backbone", None)
    if isinstance(module, PeftModule) and backbone is not None:
        if not reached_a_batch and backbone.quantization is None:
            return "model.init_args.backbone.quantization: nf4-double"
        if reached_a_batch and not module.training:
            rows = getattr(data, "eval_batch_size", None) or 2 * getattr(data, "batch_size", 1)
            if rows > 1:
                return f"data.init_args.eval_batch_size: {rows // 2}"
        if not backbone.gradient_checkpointing:
            return "model.init_args.backbone.gradient_checkpointing: true"
    rows = getattr(data, "batch_size", 1)
    if rows > 1:
        accumulation = trainer.accumulate_grad_batches * 2
        return f"data.init_args.batch_size: {rows // 2} with trainer.accumulate_grad_batches: {accumulation}"
    length = getattr(data, "max_length", None)
    if length and length > 32:
        return f"data.init_args.max_length: {length // 2}"
    return "a smaller backbone"
