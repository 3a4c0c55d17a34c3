"""P12: metrics over the whole epoch: scikit-learn over predictions.csv equals what was logged, at any batch size."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy import float32
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, matthews_corrcoef, precision_score, recall_score

from peftlit.backbone import Backbone
from peftlit.data import SST2
from peftlit.data.prompt import Prompt
from peftlit.modules import CausalLM, SequenceClassification
from peftlit.modules.metrics import CALIBRATION_BINS, SingleLabelMetrics
from peftlit.run.predictions import Predictions
from tests.modules.cases import make_trainer
from tests.modules.language_cases import ONE_TOKEN, TEMPLATE, lora


def read_predictions(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def calibration_error(rows: list[dict[str, str]], names: list[str]) -> float:
    """Expected calibration error from its definition: bins of confidence, gap to accuracy, weighted by rows."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row in rows:
        confidence = max(float(row[f"prob_{name}"]) for name in names)
        index = min(int(confidence * CALIBRATION_BINS), CALIBRATION_BINS - 1)
        bins.setdefault(index, []).append((confidence, row["label"] == row["prediction"]))
    total = sum(abs(sum(c for c, _ in b) - sum(hit for _, hit in b)) for b in bins.values())
    return total / len(rows)


def contract_logged_equals_scikit_learn(logged: dict[str, float], path: Path, count: int) -> None:
    names = ["negative", "positive"]
    rows = read_predictions(path)
    assert [int(row["row"]) for row in rows] == list(range(1, count + 1))
    truth, answers = [row["label"] for row in rows], [row["prediction"] for row in rows]
    for row in rows:
        assert row["prediction"] == max(names, key=lambda name: float(row[f"prob_{name}"]))
        assert sum(float(row[f"prob_{name}"]) for name in names) == pytest.approx(1, abs=1e-5)
    expected = {"accuracy": accuracy_score(truth, answers), "mcc": matthews_corrcoef(truth, answers)}
    expected["calibration_error"] = calibration_error(rows, names)
    for stem, score in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        expected[stem] = score(truth, answers, average="macro", zero_division=0)
        expected[f"{stem}_macro"] = expected[stem]
        expected[f"{stem}_weighted"] = score(truth, answers, average="weighted", zero_division=0)
        per_class = score(truth, answers, labels=names, average=None, zero_division=0)
        expected |= {f"{stem}_{name}": value for name, value in zip(names, per_class, strict=True)}
    for name, value in expected.items():
        assert logged[name] == pytest.approx(float(value), abs=1e-6), name


@pytest.fixture
def evaluate(bert, language_folder, toy_data, tmp_path):
    """Return a function that tests a module: what was logged, the predictions, the module and its data."""
    prompts = {"objective": "causal", "prompt": Prompt(TEMPLATE, label_words=ONE_TOKEN)}

    def run(batch_size: int, *, causal: bool = False, **arguments: Any) -> tuple[dict[str, float], Path, Any, SST2]:
        torch.manual_seed(0)
        folder = str(language_folder("llama") if causal else bert)
        settings = {"max_length": 32, "eval_batch_size": batch_size, **(prompts if causal else {})}
        data = SST2(data_dir=str(toy_data), tokenizer=folder, **settings)
        kind, adapter = (CausalLM, lora("llama")) if causal else (SequenceClassification, None)
        module = kind(Backbone(folder), adapter, data=data.data_spec())
        path = tmp_path / f"{batch_size}.csv"
        trainer = make_trainer(-1, Predictions(path, module.problem), use_distributed_sampler=False, **arguments)
        logged = trainer.test(module, datamodule=data, verbose=False)[0]
        return {name.removeprefix("test/"): value for name, value in logged.items()}, path, module, data

    return run


@pytest.mark.parametrize("causal", [False, True], ids=["classifier", "language model that tells labels"])
def test_p12_logged_metrics_equal_scikit_learn_and_no_batch_size_changes_them(causal, evaluate) -> None:
    every = []
    for batch_size in (1, 7, 13, 30, 64):
        logged, path, *_ = evaluate(batch_size, causal=causal)
        contract_logged_equals_scikit_learn(logged, path, 30)
        every.append(logged)
    assert every[1:] == [pytest.approx(every[0], abs=2e-6)] * 4


def test_p12_a_limited_evaluation_counts_the_rows_that_it_scored(evaluate) -> None:
    _, path, module, data = evaluate(4, limit_test_batches=0.3)
    scored = [int(row["row"]) for row in read_predictions(path)]
    assert len(scored) == len(set(scored)) == module.evaluation_extras["rows"] == data.rows_scored("test") == 8
    lengths = dict(zip(data._encoded["test"]["row"], data._encoded["test"]["length"], strict=True))
    assert sorted(lengths[row] for row in scored) != sorted(lengths.values())[-8:], "the longest rows alone"


def test_p12_a_finished_run_holds_the_same_numbers(finished_run) -> None:
    folder, _ = finished_run
    recorded = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["test"]
    contract_logged_equals_scikit_learn(recorded, folder / "predictions.csv", 30)
    rows = read_predictions(folder / "predictions.csv")
    truth, answers = [row["label"] for row in rows], [row["prediction"] for row in rows]
    counts = confusion_matrix(truth, answers, labels=["negative", "positive"])
    assert recorded["confusion_matrix"] == counts.tolist()
    state = json.loads((folder / "adapter/trainer_state.json").read_text(encoding="utf-8"))
    logged = [value for entry in state["log_history"] for name, value in entry.items() if name != "learning_rate"]
    for number in (*recorded.values(), *logged, state["best_metric"]):
        assert not isinstance(number, float) or str(number) == str(float(str(float32(number))))
    for row in rows:
        for name in ("negative", "positive"):
            assert float(row[f"prob_{name}"]) == float(str(float32(row[f"prob_{name}"])))
    assert recorded["rows"] == 30


def test_p12_breaker_mean_of_batches_fails_the_contract(evaluate, monkeypatch) -> None:
    whole = SingleLabelMetrics.update

    def keep_only_the_last_batch(self: SingleLabelMetrics, *batch: torch.Tensor) -> None:
        self.reset()
        whole(self, *batch)

    monkeypatch.setattr(SingleLabelMetrics, "update", keep_only_the_last_batch)
    logged, path, *_ = evaluate(7)
    with pytest.raises(AssertionError):
        contract_logged_equals_scikit_learn(logged, path, 30)
