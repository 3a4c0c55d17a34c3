"""P21, on two processes: default flags work, and the result is that of one process with the same global batch."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from tests.conftest import errors_of, run_in_process
from tests.contracts import on_two_ranks
from tests.contracts import toy_runs as toy
from tests.contracts.faults_on_a_rank import break_as_asked
from tests.contracts.on_two_ranks import BREAKERS, CASES, FAST
from tests.forked import Outcome, forked, on_ranks, peftlit_in
from tests.modules.language_cases import NO_DROPOUT

slow = pytest.mark.slow

TOLERANCE = 1e-6
"""Of weights: their way is about 5e-2. Sums over rows are cut at another place, and so are rounded otherwise."""

CLOSE = 1e-6
"""Of losses, scores and probabilities."""


# --- the same as one process


@pytest.fixture(scope="module")
def together(base, tmp_path_factory) -> Callable[[str], Path]:
    """Return a function that gives the folder of what two processes have made of a case: the fast ones, or all others.

    The others are the other cases, and those that a guard is taken from; of both, names and ranks name the files.
    """
    slow = [*(name for name in CASES if name not in FAST), *BREAKERS]

    @cache
    def train(*names: str) -> Path:
        out = tmp_path_factory.mktemp("together")
        all_of_them = partial(on_two_ranks.train_all, list(names), out, base)
        outcome = forked(partial(on_ranks, all_of_them), out, others_may_take=60.0)
        assert outcome.code == 0, outcome.said
        return out

    return lambda name: train(*(FAST if name in FAST else slow))


@pytest.fixture(scope="module")
def alone(base, tmp_path_factory) -> Callable[[str], Path]:
    """Return a function that gives the folder where one process has left what it made of a case."""

    @cache
    def train(name: str) -> Path:
        out = tmp_path_factory.mktemp("alone")
        on_two_ranks.train(name, out, base / "bert", base, ranks=1)
        return out

    return train


def predictions(file: Path) -> tuple[list[list[str]], list[float]]:
    """The table but for its probabilities, and those."""
    with file.open(encoding="utf-8", newline="") as lines:
        table = list(csv.reader(lines))
    return [row[:3] for row in table], [float(cell) for row in table[1:] for cell in row[3:]]


def contract_weights_are_those_of_one(one: Path, *others: Path) -> None:
    first, *rest = (load_file(file) for file in (one, *others))
    for other in rest:
        assert other.keys() == first.keys()
        for name in first:
            apart = float((other[name] - first[name]).abs().max())
            assert apart <= TOLERANCE, f"{name} differs by {apart:.1g}"


def contract_numbers_are_those_of_one(one: dict[str, Any], *others: dict[str, Any]) -> None:
    """Scores to rounding, and the confusion matrix exactly."""
    expected = {name: n if isinstance(n, list) else pytest.approx(n, abs=CLOSE) for name, n in one.items()}
    assert list(others) == [expected] * len(others)


def contract_predictions_are_those_of_one(one: Path, other: Path) -> None:
    """Probabilities to rounding, and everything else exactly."""
    (first, expected), (second, found) = predictions(one), predictions(other)
    assert second == first
    assert found == pytest.approx(expected, abs=CLOSE)


def contract_as_one_process(name: str, one: Path, two: Path, named: str | None = None) -> None:
    """Of ``name``; ``named`` is what the two call it."""
    files = [one / f"{name}.0", *(two / f"{named or name}.{rank}" for rank in (0, 1))]
    weights, numbers, rows = ([Path(f"{file}.{kind}") for file in files] for kind in ("safetensors", "json", "csv"))
    contract_weights_are_those_of_one(*weights)
    contract_numbers_are_those_of_one(*(json.loads(file.read_text()) for file in numbers))
    assert not rows[2].exists()
    contract_predictions_are_those_of_one(*rows[:2])


@pytest.mark.parametrize("name", [name if name in FAST else pytest.param(name, marks=slow) for name in CASES])
def test_p21_two_processes_are_as_one_with_the_same_global_batch(name, alone, together):
    contract_as_one_process(name, alone(name), together(name))


@slow
@pytest.mark.parametrize("guard", BREAKERS)
def test_p21_goes_red_when(guard, alone, together):
    name = BREAKERS[guard][0]
    with pytest.raises(AssertionError):
        contract_as_one_process(name, alone(name), together(guard), guard)


# --- the command line


def fit(folder: Path, *more: str, devices: int = 2, **fault: Any) -> Outcome:
    """Run a command line on two processes; see :mod:`tests.contracts.faults_on_a_rank` for what may be broken."""
    arguments = ["fit", "--config=config.yaml", "--run_dir=run", f"--trainer.devices={devices}", *more]
    prepare = partial(break_as_asked, **fault)
    return peftlit_in(folder, *arguments, prepare=prepare, ranks=2, others_may_take=20.0)


EARLY = {"monitor": "val/loss", "mode": "min", "patience": 2, "min_delta": 1.0}
CALLBACKS = [toy.BEST, toy.EVERY_STEP, {"class_path": "EarlyStopping", "init_args": EARLY}]
KIND = {
    "trainer": {"precision": "bf16-mixed", "max_epochs": 4, "callbacks": CALLBACKS},
    "backbone": {**toy.NF4, "gradient_checkpointing": True},
    "optimizer": toy.EIGHT_BIT,
}
"""Dropout, windows of two batches, six batches an epoch; it is stopped early, after the third of four epochs."""


@pytest.fixture
def folder(base, tmp_path) -> Path:
    toy.write_run(tmp_path / "run_of_two", base, KIND)
    return tmp_path / "run_of_two"


def errors_and_noise(said: str) -> list[str]:
    """What is neither a number, nor a line of progress."""
    lines = [line for line in said.splitlines() if line and not line.startswith(("peftlit: ", "epoch "))]
    return [*errors_of(said), *lines]


def contract_all_end_and_one_says_why(outcome: Outcome, code: int, why: str) -> None:
    assert outcome.code == code, outcome.said
    assert not outcome.outlived, "a process goes on"
    (said,) = errors_and_noise(outcome.said)
    assert why in said


FAULTS = [  # what happens, on which rank, with which exit code the run ends, and what is said
    ("error", 0, 1, "row 7: broken"),
    ("error", 1, 1, "row 7: broken"),
    ("loss", 1, 1, "the loss is not finite"),
    ("SIGKILL", 0, -9, "the first process of the run has ended"),
    ("SIGKILL", 1, 1, "process 1 of the run was ended by SIGKILL"),
    ("reload check", 0, 1, "the folder answers otherwise"),
]


@slow
@pytest.mark.parametrize(("what", "rank", "code", "why"), FAULTS)
def test_p21_all_end_and_one_says_why(what, rank, code, why, folder):
    outcome = fit(folder, "--trainer.max_epochs=1", what=what, rank=rank, batch=3)
    contract_all_end_and_one_says_why(outcome, code, why)


@slow
@pytest.mark.parametrize(("what", "rank", "code", "why"), [FAULTS[1], FAULTS[3]])  # the reload check comes last
def test_p21_goes_red_when_each_ends_by_itself(what, rank, code, why, folder):
    outcome = fit(folder, "--trainer.max_epochs=1", what=what, rank=rank, batch=3, without="ending together")
    with pytest.raises((AssertionError, ValueError)):
        contract_all_end_and_one_says_why(outcome, code, why)


# --- signals, and going on


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory) -> Path:
    """A run that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run_of_two"
    toy.write_run(folder, base, KIND)
    outcome = fit(folder)
    assert outcome.code == 0, outcome.said
    return folder


def contract_said_once(said: str) -> None:
    """Two lines that are alike are one that both processes have said."""
    assert errors_and_noise(said) == []
    assert [line for line, times in Counter(said.splitlines()).items() if times > 1] == []


def contract_goes_on_as_if_never_interrupted(whole: Path, folder: Path, outcome: Outcome) -> None:
    assert outcome.code == 0, outcome.said
    assert toy.differences(toy.result(whole), toy.result(folder)) == []


def contract_stops_with_one_word(outcome: Outcome, number: signal.Signals) -> None:
    assert outcome.code == 128 + number, outcome.said
    assert not outcome.outlived, "a process goes on"
    assert errors_and_noise(outcome.said) == []
    assert outcome.said.count("stopped by") == 1
    assert f"stopped by {number.name} after step 2; go on with" in outcome.said


@slow
def test_p21_each_line_is_said_once(whole):
    contract_said_once((whole / "said.txt").read_text(encoding="utf-8"))


@slow
def test_p21_goes_red_when_all_speak(folder):
    said = fit(folder, "--trainer.fast_dev_run=1", without="one voice").said
    with pytest.raises(AssertionError):
        contract_said_once(said)


@slow
@pytest.mark.parametrize(("name", "rank"), [("SIGTERM", 1), ("SIGINT", 0)])
def test_p21_a_signal_ends_a_step_of_all_and_the_run_goes_on(name, rank, folder, whole):
    stopped = fit(folder, what=name, rank=rank, batch=3)
    contract_stops_with_one_word(stopped, signal.Signals[name])
    contract_goes_on_as_if_never_interrupted(whole, folder, fit(folder, "--ckpt_path=last"))


@slow
def test_p21_goes_red_when_only_the_first_hears(folder):
    outcome = fit(folder, what="SIGTERM", rank=1, batch=3, without="hearing each rank")
    with pytest.raises(AssertionError):
        contract_stops_with_one_word(outcome, signal.SIGTERM)


@slow
def test_p21_killed_before_a_validation_and_resumed_it_goes_on_and_breaks_without_its_guards(folder, whole, tmp_path):
    outcome = fit(folder, what="SIGKILL to all", rank=1, batch=11)
    assert outcome.code == -signal.SIGKILL
    for guard in ("the place in the epoch", "the random states"):
        copy = shutil.copytree(folder, tmp_path / guard)
        resumed = fit(copy, "--ckpt_path=last", without=guard)
        with pytest.raises(AssertionError):
            contract_goes_on_as_if_never_interrupted(whole, copy, resumed)
    contract_goes_on_as_if_never_interrupted(whole, folder, fit(folder, "--ckpt_path=last"))


# --- as a user starts it


@slow
def test_p21_started_by_a_user_with_default_flags(base, tmp_path):
    kind = {
        "trainer": {"precision": "32-true", "callbacks": [toy.BEST]},
        "backbone": {"config_overrides": NO_DROPOUT["bert"]},
    }
    runs = {1: tmp_path / "one", 2: tmp_path / "two"}
    for devices, folder in runs.items():
        toy.write_run(folder, base, kind)
        settings = yaml.safe_load((folder / "config.yaml").read_text())
        settings["data"]["init_args"] |= {"batch_size": 8 // devices, "eval_batch_size": 8 // devices}
        settings["model"]["init_args"]["adapter"]["init_args"]["lora_dropout"] = 0.0
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    alone = fit(runs[1], devices=1)
    assert alone.code == 0, alone.said
    flags = ("--config=config.yaml", "--trainer.devices=2", "--trainer.accelerator=cpu")
    done = run_in_process(runs[2], "fit", *flags, fresh=True)
    assert done.returncode == 0, done.stderr
    contract_said_once(done.stdout + done.stderr)
    assert [path.name for path in (runs[2] / "runs").iterdir()] == ["001"]
    one, two = runs[1] / "run", runs[2] / "runs/001"
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    contract_weights_are_those_of_one(*(run / "adapter/adapter_model.safetensors" for run in (one, two)))
    contract_predictions_are_those_of_one(one / "predictions.csv", two / "predictions.csv")
    first, second = (json.loads((run / "metrics.json").read_text()) for run in (one, two))
    for split in ("validation", "test"):
        contract_numbers_are_those_of_one(first[split], second[split])
