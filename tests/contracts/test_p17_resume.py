"""P17: killed anywhere and resumed, a run sees the same rows, the same losses, and ends in the same bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from peftlit.adapters.adalora import AdaLora
from peftlit.checkpoint import random_states
from peftlit.checkpoint import resume as resumption
from peftlit.data import TextDataModule
from peftlit.modules import SequenceClassification
from peftlit.modules.accumulation import AccumulationWindow
from peftlit.plugins import Resumption
from tests.contracts import killed
from tests.contracts.toy_runs import BEST, EVERY_STEP, FIT, differences, result, write_run
from tests.forked import peftlit_in

pytestmark = pytest.mark.slow

RANKS = {"init_r": 6, "target_r": 2, "total_step": 12, "tinit": 2, "tfinal": 2, "target_modules": ["query", "value"]}
KINDS = {
    **killed.STORED,
    "float32, AdaLoRA": {
        "trainer": {"precision": "32-true"},
        "adapter": {"class_path": "peft.AdaLoraConfig", "init_args": RANKS},
    },
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, base) -> Callable[[str, int], Path]:
    """Return a function that gives an uninterrupted run of a kind, made once."""

    @cache
    def run(stored: str, ranks: int) -> Path:
        folder = tmp_path_factory.mktemp("whole") / "run"
        killed.write(folder, base, KINDS[stored], ranks)
        assert killed.run(folder, ranks=ranks) == 0, (folder / "said.txt").read_text()
        return folder

    return run


def contract_killed_and_resumed_ends_the_same(
    whole: Path, folder: Path, base: Path, stored: str, ranks: int, prepare: Callable[[], None] | None = None
) -> None:
    odd = killed.killed_in_each_position(whole, folder, base, KINDS[stored], ranks, prepare)
    assert odd == {position: [] for position in killed.positions(ranks)}


@pytest.mark.parametrize(("stored", "ranks"), [*((stored, 1) for stored in KINDS), ("NF4, 8-bit AdamW", 2)])
def test_p17_killed_and_resumed_is_as_if_never_interrupted(stored, ranks, whole, base, tmp_path) -> None:
    contract_killed_and_resumed_ends_the_same(whole(stored, ranks), tmp_path / "killed", base, stored, ranks)


on_train_batch_start, state_dict = Resumption.on_train_batch_start, Resumption.state_dict


def save_a_step_again(self: Any, trainer: Any, *arguments: Any) -> None:
    before = [callback._last_global_step_saved for callback in trainer.checkpoint_callbacks[:2]]
    on_train_batch_start(self, trainer, *arguments)
    for callback, step in zip(trainer.checkpoint_callbacks, before, strict=False):
        callback._last_global_step_saved = step


def take_states_as_they_are(self: Any) -> Any:
    loaded, self._loaded = self._loaded, None
    try:
        return state_dict(self)
    finally:
        self._loaded = loaded


BREAKERS: dict[str, tuple[Any, str, Any]] = {
    "the place in the epoch": (TextDataModule, "load_state_dict", lambda self, state: None),
    "the random states": (random_states, "restore", lambda states: None),
    "the validation that is due": (resumption, "_validation_is_due", lambda trainer: False),
    "the steps that were saved": (Resumption, "on_train_batch_start", save_a_step_again),  # inside the next window
    "the states before a validation": (Resumption, "state_dict", take_states_as_they_are),  # while it is done anew
}


def test_p17_goes_red_without_the_ranks_given_out(whole, base, tmp_path) -> None:
    kind, lost = "float32, AdaLoRA", partial(setattr, AdaLora, "restore_state", lambda self, model, state: None)
    with pytest.raises(AssertionError):
        contract_killed_and_resumed_ends_the_same(whole(kind, 1), tmp_path / "killed", base, kind, 1, lost)


@pytest.mark.parametrize("guard", BREAKERS)
def test_p17_goes_red_without(guard, whole, base, tmp_path) -> None:
    lost = partial(setattr, *BREAKERS[guard])  # in the child alone
    with pytest.raises(AssertionError):
        contract_killed_and_resumed_ends_the_same(whole("float32", 1), tmp_path / "killed", base, "float32", 1, lost)


# Runs that save or end otherwise --------------------------------------------------------------------------------------

TRAINER = {"precision": "32-true", "max_epochs": 1, "accumulate_grad_batches": 1}


def whole_and_cut(
    base: Path, folder: Path, trainer: dict[str, Any], kill_at: str, prepare: Callable[[], None] | None
) -> list[dict[str, Any]]:
    """Run to the end, and killed and resumed: the same. Return how each says that it ended."""
    whole, cut = runs = [folder / "whole", folder / "cut"]
    for run in runs:
        killed.write(run, base, {"trainer": {**TRAINER, **trainer}})
    assert killed.run(whole) == 0, (whole / "said.txt").read_text()
    assert killed.run(cut, kill_at=kill_at) == -signal.SIGKILL
    assert killed.run(cut, "--ckpt_path=last", prepare=prepare) == 0, (cut / "said.txt").read_text()
    assert differences(result(whole), result(cut)) == []
    return [json.loads((run / "run/adapter/trainer_state.json").read_text()) for run in runs]


def record_otherwise(**entries: Any) -> Callable[[], None]:
    """Return what lets a resumed process read a checkpoint that says something else of where the run was."""

    def prepare() -> None:
        true_load = resumption.Resumption.on_load_checkpoint

        def load(self: Any, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
            checkpoint[resumption.RECORD] |= entries
            true_load(self, trainer, pl_module, checkpoint)

        resumption.Resumption.on_load_checkpoint = load  # in the child alone

    return prepare


BEST_OF_STEPS = {"class_path": BEST["class_path"], "init_args": {**BEST["init_args"], "every_n_train_steps": 6}}


def contract_best_weights_by_steps(base: Path, folder: Path, prepare: Callable[[], None] | None = None) -> None:
    """A save that waits for a validation is made after it."""
    trainer = {"val_check_interval": 0.5, "callbacks": [BEST_OF_STEPS, EVERY_STEP]}
    whole_and_cut(base, folder, trainer, "validation 0/0", prepare)


EARLY = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "patience": 1, "min_delta": 1.0}}
"""Stops at the second validation, which is inside an epoch: nothing gets that much better."""


def contract_an_end_inside_an_epoch(base: Path, folder: Path, prepare: Callable[[], None] | None = None) -> None:
    """Training that was to end inside an epoch trains no further when it goes on, and ends as it would have."""
    trainer = {"val_check_interval": 2, "max_epochs": 3, "callbacks": [EARLY, BEST]}
    ended = whole_and_cut(base, folder, trainer, "end", prepare)
    assert ended[0]["epoch"] == ended[1]["epoch"] == 1.0
    validated = [[e["epoch"] for e in state["log_history"] if "eval_loss" in e] for state in ended]
    assert validated == [[round(batches / killed.BATCHES, 4) for batches in (2, 4)]] * 2
    assert ended[0]["global_step"] == ended[1]["global_step"] < killed.BATCHES


def contract_an_end_before_a_validation(base: Path, folder: Path, prepare: Callable[[], None] | None = None) -> None:
    """Training that was to end when a validation was due makes that validation, and no step more."""
    trainer = {"val_check_interval": 4, "callbacks": [{"class_path": "interruptions.StopAfterFour"}, EVERY_STEP]}
    ended = whole_and_cut(base, folder, trainer, "validation 0/0", prepare)
    assert [state["global_step"] for state in ended] == [4, 4]


CONTRACTS = [contract_best_weights_by_steps, contract_an_end_inside_an_epoch, contract_an_end_before_a_validation]


@pytest.mark.parametrize("contract", CONTRACTS)
def test_p17_what_ends_or_saves_in_between_is_as_if_never_interrupted(contract, base, tmp_path) -> None:
    contract(base, tmp_path)


def test_p17_goes_red_without_those_who_wait(base, tmp_path) -> None:
    with pytest.raises(AssertionError):
        contract_best_weights_by_steps(base, tmp_path, record_otherwise(waits=[]))


def test_p17_goes_red_when_the_epoch_is_finished_first(base, tmp_path) -> None:
    with pytest.raises(AssertionError):
        contract_an_end_inside_an_epoch(base, tmp_path, record_otherwise(validation_is_due=True))


def test_p17_goes_red_when_it_is_not_ended_after_the_validation(base, tmp_path) -> None:
    def forget() -> None:
        del resumption.Resumption.on_validation_end  # in the child alone

    with pytest.raises(AssertionError):
        contract_an_end_before_a_validation(base, tmp_path, forget)


SHORT = {"trainer": {"precision": "32-true", "max_epochs": 1, "callbacks": [BEST]}}


def in_the_test(number: int) -> Callable[[], None]:
    def prepare() -> None:
        true_step = SequenceClassification.test_step

        def step(self: Any, *arguments: Any) -> Any:
            SequenceClassification.test_step = true_step
            os.kill(os.getpid(), number)
            return true_step(self, *arguments)

        SequenceClassification.test_step = step

    return prepare


def test_sigterm_in_an_evaluation_is_no_success(base, tmp_path) -> None:
    write_run(tmp_path / "run", base, SHORT)
    line = "peftlit: stopped by SIGTERM before the scores were written; score again with: peftlit test --run_dir run"
    for command in (FIT, ("test", "--run_dir=run", "--config=config.yaml")):
        ended = peftlit_in(tmp_path / "run", *command, prepare=in_the_test(signal.SIGTERM))
        assert (ended.code, ended.last_line) == (128 + signal.SIGTERM, line), ended.said
        assert json.loads((tmp_path / "run/run/metrics.json").read_text())["test"] is None
    again = peftlit_in(tmp_path / "run", "test", "--run_dir=run")
    assert again.code == 0, again.said
    assert json.loads((tmp_path / "run/run/metrics.json").read_text())["test"]["rows"] == 30


def test_a_job_that_is_requeued_before_its_first_checkpoint_starts_again(base, tmp_path) -> None:
    def job(restarts: int, dies: bool) -> Callable[[], None]:
        def prepare() -> None:
            os.environ |= {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "toy", "SLURM_NODELIST": "node"}
            os.environ |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
            os.environ["SLURM_RESTART_COUNT"] = str(restarts)
            if dies:
                AccumulationWindow.accumulate = lambda *_: os.kill(os.getpid(), signal.SIGKILL)

        return prepare

    for name in ("whole", "cut"):
        write_run(tmp_path / name, base, SHORT)
    assert peftlit_in(tmp_path / "whole", *FIT).code == 0
    assert peftlit_in(tmp_path / "cut", *FIT, prepare=job(0, dies=True)).code == -signal.SIGKILL
    again = peftlit_in(tmp_path / "cut", *FIT, prepare=job(1, dies=False))
    assert again.code == 0, again.said
    assert "job was requeued: no checkpoint yet, starting again in run" in again.said
    one, other = (json.loads((tmp_path / name / "run/metrics.json").read_text()) for name in ("whole", "cut"))
    assert one["trainable_sha256"] == other["trainable_sha256"]
    shutil.rmtree(tmp_path / "cut/run/checkpoints")
    finished = peftlit_in(tmp_path / "cut", *FIT, prepare=job(2, dies=False))
    assert (finished.code, "already holds a run" in finished.last_line) == (1, True), finished.said
