"""A real chat model, 4-bit SmolLM2, goes the whole way: training, answers, export, reload check, test, predict."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.backbone.test_gguf import with_smollm2
from tests.configs.stand_ins import CONFIGS
from tests.conftest import read_json, run_in_process

pytestmark = [pytest.mark.slow, with_smollm2]


def run(folder: Path, *arguments: object) -> str:
    done = run_in_process(folder, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stderr + done.stdout


def test_the_chat_quick_start_to_the_end_in_a_few_steps(tmp_path) -> None:
    (tmp_path / "configs").mkdir()
    shutil.copytree(CONFIGS / "data", tmp_path / "configs/data")
    few = {
        "trainer": {
            "max_epochs": 1, "limit_train_batches": 3, "limit_val_batches": 1, "limit_test_batches": 1,
            "callbacks": [{"class_path": "peftlit.run.answers.Answers", "init_args": {"rows": 2, "max_new_tokens": 4}}],
        },
    }  # fmt: skip
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(few), encoding="utf-8")
    said = run(tmp_path, "fit", "--config", CONFIGS / "quickstart-chat.yaml", "--config=few.yaml", "--run_dir=run")
    assert "answers the same" in said
    assert "before:" in said
    metrics = read_json(tmp_path / "run/metrics.json")
    assert metrics["reload_logit_difference"] == 0
    assert metrics["reload_drift"]["compared"] > 100
    assert metrics["answers"]["rows"] == 2
    with (tmp_path / "run/answers.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [sorted(row) for row in rows] == [["after", "before", "expected", "prompt"]] * 2
    run(tmp_path, "test", "--run_dir=run", "--trainer.limit_test_batches=1")
    assert read_json(tmp_path / "run/metrics.json")["test"] == pytest.approx(metrics["test"], rel=1e-6)
    answer = run(tmp_path, "predict", "--run_dir=run", f"--text={rows[0]['prompt']}", "--max_new_tokens=4")
    (line,) = [line for line in answer.splitlines() if line.startswith("{")]
    assert json.loads(line)["text"] == rows[0]["after"]
