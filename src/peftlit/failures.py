"""What Lightning, torch and the system raise while a run goes on, as one line that says what to do."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from traceback import walk_tb
from types import ModuleType
from typing import Any

from lightning import LightningDataModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException
from safetensors import SafetensorError

from peftlit.config_errors import raised_by_lightning
from peftlit.errors import (
    CheckpointError,
    ConfigError,
    OutOfMemoryError,
    PeftlitError,
    ProcessError,
    RunFolderError,
    Stopped,
)
from peftlit.plugins import Resumption
from peftlit.run.disk import disk_problem
from peftlit.run.folder import RunFolder
from peftlit.run.memory import explain_out_of_memory, is_out_of_memory

_LIBRARIES = ("bitsandbytes", "datasets", "jsonargparse", "lightning", "peft", "torch", "transformers")


@contextmanager
def in_one_line(module: Any, data: LightningDataModule | None, trainer: Trainer, folder: RunFolder) -> Iterator[None]:
    """Turn what a user can mend into one of our errors; anything else passes as it is.

    Args:
        module: The LightningModule.
        data: The data module.
        trainer: The trainer.
        folder: The run folder.

    Raises:
        PeftlitError: Saying what to mend.
        KeyboardInterrupt: Lightning has made an exit code of it.
    """
    try:
        with without_gaps():
            yield
    except PeftlitError:
        raise
    except SIGTERMException as error:  # the signal came while nothing trained, and Lightning would call it success
        if trainer.state.fn == "fit":  # nobody of ours listened
            raise Stopped("stopped by SIGTERM; there are no checkpoints to go on from", signal.SIGTERM) from error
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
        raise ConfigError(f"trainer: {_said(error)}") from error
    except (RuntimeError, MemoryError, OSError, ValueError, SafetensorError) as error:
        if raised_by_lightning(error):
            raise ConfigError(f"trainer: {_said(error)}") from error
        if reason := disk_problem(error):
            raise RunFolderError(f"--run_dir {folder.path}: {reason}") from error
        if "DataLoader worker" in str(error):
            raise ProcessError(
                "a process that loads batches was killed; the system does that where memory runs out: set fewer "
                "data.num_workers, and go on with --ckpt_path last"
            ) from error
        if is_out_of_memory(error):
            raise OutOfMemoryError(explain_out_of_memory(error, module, data, trainer)) from error
        raise


@contextmanager
def of_the_checkpoint(checkpoint: str | None, resumption: Resumption) -> Iterator[None]:
    """Lay to a checkpoint whatever is raised before it is restored: what Lightning makes of one cannot be foreseen.

    Args:
        checkpoint: The checkpoint that the run goes on from, if it does.
        resumption: Knows whether it is restored.

    Raises:
        CheckpointError: Nothing can go on from it.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if not checkpoint or resumption.restored:
            raise
        raise CheckpointError(
            f"{checkpoint}: no run can go on from it ({type(error).__name__}: {_said(error)}); use another checkpoint"
        ) from error


@contextmanager
def without_gaps() -> Iterator[None]:
    """Report an attribute that peftlit's own code needs of a library, and that its installed version lacks.

    Raises:
        PeftlitError: Naming the library, its version and the attribute.
    """
    try:
        yield
    except AttributeError as error:
        library = type(error.obj).__module__.split(".")[0]
        if isinstance(error.obj, ModuleType):
            library = error.obj.__name__.split(".")[0]
        frames = [frame for frame, _ in walk_tb(error.__traceback__) if frame.f_code.co_name != "__getattr__"]
        ours = str(frames[-1].f_globals.get("__name__")).startswith("peftlit.")
        if not ours or library not in _LIBRARIES:
            raise
        raise PeftlitError(
            f"{library} {version(library)}: {_said(error)}, which peftlit needs; install a version that it was tested "
            "with (pip install -c constraints.txt)"
        ) from error


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())
