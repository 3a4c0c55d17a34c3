"""Whole runs on a CUDA device: trained, exported, reloaded, scored again, killed and continued, and out of memory."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_lightning_cli import contract_out_of_memory
from tests.conftest import run_in_process
from tests.contracts import killed
from tests.contracts.test_p12_metrics import read_predictions
from tests.contracts.toy_runs import EIGHT_BIT, NF4, write_base
from tests.modules.cases import STORAGES
from tests.modules.language_cases import ONE_TOKEN, TEMPLATE

pytestmark = pytest.mark.gpu

TASKS: dict[str, tuple[str, str]] = {
    "classifier": ("SequenceClassification", "bert"),
    "masked": ("MaskedLM", "bert"),
    "causal": ("CausalLM", "llama"),
    "likelihood": ("CausalLM", "llama"),
}
"""What is learned: the module's class and the model's family."""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = run_in_process(folder, *arguments, "--run_dir=run")
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def run_settings(settings, toy_data, model_folder, language_folder):
    """Return a function that makes the configuration of a run of a task, stored in a way."""

    def make(task: str, quantization: str | None) -> dict[str, Any]:
        name, family = TASKS[task]
        folder = model_folder(family) if task == "classifier" else language_folder(family)
        model = settings["model"]
        model["class_path"] = name
        model["init_args"]["backbone"] = {"name_or_path": str(folder), "quantization": quantization}
        targets = ["query", "value"] if family == "bert" else ["q_proj", "v_proj"]
        model["init_args"]["adapter"]["init_args"]["target_modules"] = targets
        model["init_args"]["optimizer"] = EIGHT_BIT
        files = {f"{split}_file": str(toy_data / f"{split}.jsonl") for split in ("train", "validation", "test")}
        if task in ("masked", "causal"):
            settings["data"] = {"class_path": "TextLines", "init_args": {**files, "batch_size": 8, "max_length": 32}}
        if task == "likelihood":
            settings["data"]["init_args"]["prompt"] = {"template": TEMPLATE, "label_words": ONE_TOKEN}
        settings["trainer"]["accumulate_grad_batches"] = 2
        settings["trainer"]["callbacks"][0]["init_args"] = {"monitor": "val/loss", "mode": "min"}
        return settings

    return make


@pytest.mark.parametrize("quantization", STORAGES, ids=["plain", "NF4", "int8"])
@pytest.mark.parametrize("task", TASKS)
def test_a_run_reloads_and_answers_the_same_again(task, quantization, run_settings, write_config, tmp_path) -> None:
    write_config(run_settings(task, quantization))
    done = run(tmp_path, "fit", "--config=config.yaml")
    assert "answers the same" in done.stderr
    assert "on cuda (chosen by the hardware)" in done.stderr
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["fit"]["peak_memory_mib"] < 512, "the host's memory was measured"
    run(tmp_path, "test")
    tested = json.loads((tmp_path / "run/metrics.json").read_text())["test"]
    for name, value in metrics["test"].items():
        if isinstance(value, float):
            assert tested[name] == pytest.approx(value, rel=1e-3, abs=1e-3), name


def test_predict_says_what_the_test_split_was_told(run_settings, toy_data, write_config, tmp_path) -> None:
    settings = run_settings("classifier", "nf4-double")
    settings["trainer"]["precision"] = "32-true"  # as predict computes
    write_config(settings)
    run(tmp_path, "fit", "--config=config.yaml")
    told = {int(row["row"]): row for row in read_predictions(tmp_path / "run/predictions.csv")}
    said = run(tmp_path, "predict", f"--file={toy_data / 'test.jsonl'}")
    answers = [json.loads(line) for line in said.stdout.splitlines()]
    assert len(answers) == len(told) == 30
    for answer in answers:
        for label, probability in answer["probabilities"].items():
            assert probability == pytest.approx(float(told[answer["row"]][f"prob_{label}"]), abs=1e-3)


KILLED: dict[str, dict[str, Any]] = {
    "float32": killed.STORED["float32"],
    "bfloat16": killed.STORED["bfloat16"],
    "float16": {"trainer": {"precision": "16-mixed"}},
    "bfloat16, NF4, 8-bit AdamW": killed.STORED["NF4, 8-bit AdamW"],
    "float16, NF4, 8-bit AdamW": {"trainer": {"precision": "16-mixed"}, "backbone": NF4, "optimizer": EIGHT_BIT},
    "bfloat16, int8": {"trainer": {"precision": "bf16-mixed"}, "backbone": {"quantization": "int8"}},
}


@pytest.mark.parametrize("stored", KILLED)
def test_p17_killed_and_resumed_is_as_if_never_interrupted(stored, tmp_path) -> None:
    base, whole = tmp_path / "base", tmp_path / "whole"
    write_base(base)
    killed.write(whole, base, KILLED[stored])
    assert killed.run(whole) == 0, (whole / "said.txt").read_text()
    odd = killed.killed_in_each_position(whole, tmp_path / "killed", base, KILLED[stored], ranks=1)
    assert odd == {position: [] for position in killed.positions(1)}


def test_gpu_memory_running_out_is_one_line_with_the_change_that_fits(settings, tmp_path: Path) -> None:
    limit = "from torch import cuda; cuda.set_per_process_memory_fraction((1 << 30) / cuda.mem_get_info()[1])"
    contract_out_of_memory("device", limit, settings, tmp_path)
