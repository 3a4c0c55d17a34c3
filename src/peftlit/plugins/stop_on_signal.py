"""On SIGTERM or Ctrl-C the current optimizer step finishes, a checkpoint is written, and the exit code says why."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import Checkpoint

from peftlit.errors import Stopped
from peftlit.modules.accumulation import at_step_boundary

log = logging.getLogger(__name__)

CHECKPOINT_NAME = "stopped.ckpt"


class StopOnSignal(Checkpoint):
    """End training at the next optimizer step after SIGTERM, Ctrl-C, or SLURM's signal to requeue.

    Any other request to stop inside an accumulation window, such as ``trainer.max_time``, is deferred to its end. It is
    a checkpoint callback so that it runs after all others, whose own checkpoints are then written. A second Ctrl-C ends
    at once. A validation is given up, and done anew when the run resumes.

    Args:
        folder: Where checkpoints are.
        way_on: The command that resumes, for the message.
    """

    def __init__(self, folder: Path, way_on: str) -> None:
        self.folder = folder
        self.way_on = way_on
        self._asked = 0
        self._requeue = 0
        self._held = False
        self._before: dict[int, Any] = {}

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen."""
        self._listen(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen; Lightning's own listeners, which stop inside an accumulation window, are replaced."""
        self._listen(trainer)
        # what it asks the other ranks for before each micro-batch, we ask after a step
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def _listen(self, trainer: Trainer) -> None:
        if self._before or threading.current_thread() is not threading.main_thread():
            return  # Python lets no other thread listen
        environment = trainer._accelerator_connector.cluster_environment  # a strategy of one device has none
        signals = {signal.SIGTERM, signal.SIGINT}
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            self._requeue = int(environment.requeue_signal or signal.SIGUSR1)
            signals.add(signal.Signals(self._requeue))
        self._before = {number: signal.signal(number, self._note) for number in signals}
        if trainer.received_sigterm:  # before we did; Lightning would stop inside a window, and say nothing
            trainer._signal_connector.received_sigterm = False
            self._note(signal.SIGTERM, None)

    def _note(self, number: int, frame: Any) -> None:
        if self._asked == number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = number
        again = " (Ctrl-C again: at once)" * (number == signal.SIGINT)
        log.info("%s: stopping after this step%s", signal.Signals(number).name, again)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Stop if the batch ended an optimizer step.

        Raises:
            Stopped: A signal has asked for it.
        """
        if not at_step_boundary(trainer):
            self._held, trainer.should_stop = self._held or trainer.should_stop, False
            return
        self._held, trainer.should_stop = False, self._held or trainer.should_stop
        self._stop_if_asked(trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Stop; before training has begun, only after its first step.

        Raises:
            Stopped: A signal has asked for it.
        """
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        asked = self._asked
        if trainer.world_size > 1:  # one rank may have heard it, or another one first
            own = torch.tensor(asked, device=trainer.strategy.root_device)
            asked = int(trainer.strategy.reduce(own, reduce_op="max"))
        if not asked:
            return
        trainer.save_checkpoint(self.folder / CHECKPOINT_NAME)
        if asked == self._requeue and trainer.is_global_zero:
            _requeue()
        name = signal.Signals(asked).name
        raise Stopped(f"stopped by {name} after step {trainer.global_step}; go on with: {self.way_on}", asked)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop for a signal that came after the last step, then stop listening: Lightning does so before a fit ends.

        Raises:
            Stopped: A signal has asked for it.
        """
        self._stop_if_asked(trainer)
        self._stop_listening()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop listening."""
        self._stop_listening()

    def _stop_listening(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def _requeue() -> None:
    """Ask SLURM to start the job again; a job of an array is named by both its numbers."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
        said = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        said = str(error)
    if said:
        log.warning("job %s is not requeued (scontrol: %s)", job, said)
    else:
        log.info("job %s is requeued", job)
