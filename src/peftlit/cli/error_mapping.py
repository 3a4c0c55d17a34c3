"""Errors of Lightning, torch and the system as peftlit errors: one line that says what to do."""

from __future__ import annotations

import re
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
from lightning import LightningDataModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException
from safetensors import SafetensorError

from peftlit.backbone.hardware import is_out_of_memory, peak_mib
from peftlit.errors import (
    CheckpointError,
    ConfigError,
    OutOfMemoryError,
    PeftlitError,
    ProcessError,
    RunFolderError,
    Stopped,
    first_line,
    in_one_line,
)
from peftlit.files import disk_problem
from peftlit.modules import PeftModule
from peftlit.plugins import Resumption
from peftlit.run.folder import RunFolder

_LIBRARIES = ("bitsandbytes", "datasets", "jsonargparse", "lightning", "peft", "torch", "transformers")
_WORKER_ENDED = re.compile(r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) (?:is )?([^.]+)")
_WORKER_ADVICE = {
    "killed by signal: Bus error": "shared memory ran out: raise the limit of /dev/shm, or set fewer data.num_workers",
}


@contextmanager
def map_errors(module: Any, data: LightningDataModule | None, trainer: Trainer, folder: RunFolder) -> Iterator[None]:
    """Raise what a user can fix as one of our errors; anything else passes unchanged.

    Raises:
        PeftlitError: Saying what to fix.
        KeyboardInterrupt: Lightning had turned it into an exit code.
    """
    try:
        with map_missing_attributes():
            yield
    except SIGTERMException as error:  # the signal came while nothing trained, and Lightning would call it success
        if trainer.state.fn == "fit":  # without StopOnSignal
            raise Stopped("stopped by SIGTERM; there are no checkpoints to resume from", signal.SIGTERM) from error
        raise Stopped(
            "stopped by SIGTERM before the scores were written; score again with: "
            f"peftlit {trainer.state.fn and trainer.state.fn.value} --run_dir {folder.path}",
            signal.SIGTERM,
        ) from error
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    except MisconfigurationException as error:
        raise ConfigError(f"trainer: {in_one_line(error)}") from error
    except (RuntimeError, MemoryError, OSError, EOFError, ValueError, SafetensorError) as error:
        if _modules(error)[-1].startswith("lightning."):  # a complaint about a setting
            raise ConfigError(f"trainer: {in_one_line(error)}") from error
        if reason := disk_problem(error):
            raise RunFolderError(f"--run_dir {folder.path}: {reason}") from error
        if reason := _worker_problem(error):
            raise ProcessError(f"{reason}; then resume with --ckpt_path last") from error
        if is_out_of_memory(error):
            raise OutOfMemoryError(explain_out_of_memory(error, module, data, trainer)) from error
        raise


@contextmanager
def map_checkpoint_errors(checkpoint: str | None, resumption: Resumption) -> Iterator[None]:
    """Report any error raised before the checkpoint is restored as a CheckpointError."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if not checkpoint or resumption.restored:
            raise
        raise CheckpointError(
            f"{checkpoint}: no run can resume from it ({type(error).__name__}: {in_one_line(error)}); use another one"
        ) from error


@contextmanager
def map_missing_attributes() -> Iterator[None]:
    """Report an attribute that peftlit's own code needs and the installed version of a library lacks."""
    try:
        yield
    except AttributeError as error:
        library = type(error.obj).__module__.split(".")[0]
        if isinstance(error.obj, ModuleType):
            library = error.obj.__name__.split(".")[0]
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name != "__getattr__"]
        ours = str(frames[-1].f_globals.get("__name__")).startswith("peftlit.")
        if not ours or library not in _LIBRARIES:
            raise
        raise PeftlitError(
            f"{library} {version(library)}: {in_one_line(error)}, which peftlit needs; install a version that it was "
            "tested with (pip install -c constraints.txt)"
        ) from error


def _worker_problem(error: BaseException) -> str | None:
    """Say what happened to a data loader worker, and what to do; None for any other error.

    An error raised inside a worker is raised here again by torch with the same class; it is not about the worker.
    """
    if match := _WORKER_ENDED.match(str(error)):
        advice = _WORKER_ADVICE.get(match[1], "set fewer data.num_workers where memory ran out, 0 to see its own error")
        return f"a data loader worker ended ({match[1]}); {advice}"
    modules = _modules(error)
    steps = (f"{caller} {callee}" for caller, callee in pairwise(modules))
    fetched = any(step.startswith("torch.utils.data.dataloader multiprocessing.") for step in steps)
    if isinstance(error, (OSError, EOFError)) and (fetched or "in pin memory thread" in str(error)):
        what = f"{type(error).__name__}: {first_line(error)}"
        return f"the connection to a data loader worker broke ({what}); set fewer data.num_workers"
    return None


def _modules(error: BaseException) -> list[str]:
    """Name the modules that an error passed through; the last one raised it."""
    return [str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(error.__traceback__)]


def explain_out_of_memory(error: BaseException, module: Any, data: LightningDataModule | None, trainer: Trainer) -> str:
    """Say in one line which memory ran out, at which batch shape and peak, and the change most likely to fit."""
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
