"""P12: metrics over the whole epoch: scikit-learn over predictions.csv equals what was logged, at any batch size."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from numpy import float32
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, matthews_corrcoef, precision_score, recall_score

from peftlit.backbone import Backbone
from peftlit.data import SST2
from peftlit.modules import SequenceClassification
from peftlit.modules.metrics import CALIBRATION_BINS, SingleLabelMetrics
from peftlit.run.predictions import Predictions
from tests.modules.language_cases import ONE_TOKEN, TEMPLATE


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


def contract_logged_equals_scikit_learn(logged: dict[str, float], path: Path, names: list[str], count: int) -> None:
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


def evaluate(model_folder, toy_data: Path, folder: Path, batch_size: int) -> tuple[dict[str, float], Path]:
    torch.manual_seed(0)
    data = SST2(data_dir=str(toy_data), tokenizer=str(model_folder("bert")), max_length=32, eval_batch_size=batch_size)
    module = SequenceClassification(Backbone(str(model_folder("bert"))), data=data.data_spec())
    path = folder / f"{batch_size}.csv"
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Predictions(path, module.problem)], use_distributed_sampler=False,
    )  # fmt: skip
    logged = trainer.test(module, datamodule=data, verbose=False)[0]
    return {name.removeprefix("test/"): value for name, value in logged.items()}, path


@pytest.mark.parametrize("batch_size", [1, 7, 30, 64])
def test_p12_logged_metrics_equal_scikit_learn(model_folder, toy_data, tmp_path, batch_size) -> None:
    logged, path = evaluate(model_folder, toy_data, tmp_path, batch_size)
    contract_logged_equals_scikit_learn(logged, path, ["negative", "positive"], 30)


def test_p12_batch_size_changes_no_metric(model_folder, toy_data, tmp_path) -> None:
    one, _ = evaluate(model_folder, toy_data, tmp_path, 1)
    many, _ = evaluate(model_folder, toy_data, tmp_path, 13)
    assert one.keys() == many.keys()
    for name in one:
        assert one[name] == pytest.approx(many[name], abs=2e-6), name


@pytest.mark.slow
def test_p12_a_causal_language_model_that_tells_labels_holds_the_same_numbers(
    language_folder, toy_data, peftlit, settings, write_config, tmp_path
) -> None:
    """From the configuration to predictions.csv, and from the export to the same answers."""
    arguments = settings["model"]["init_args"]
    settings["model"]["class_path"] = "CausalLM"
    arguments["backbone"] = {"name_or_path": str(language_folder("llama"))}
    arguments["adapter"]["init_args"]["target_modules"] = ["q_proj", "v_proj", "up_proj"]
    settings["data"]["init_args"]["prompt"] = {"template": TEMPLATE, "label_words": ONE_TOKEN}
    settings["trainer"] |= {"max_epochs": 1, "precision": "32-true"}
    code, _, err = peftlit("fit", "--config", write_config(settings), "--run_dir=run")
    assert code == 0, err
    recorded = json.loads((tmp_path / "run/metrics.json").read_text(encoding="utf-8"))["test"]
    contract_logged_equals_scikit_learn(recorded, tmp_path / "run/predictions.csv", ["negative", "positive"], 30)
    rows = read_predictions(tmp_path / "run/predictions.csv")
    code, out, err = peftlit("predict", "--run_dir=run", "--file", toy_data / "test.jsonl", "--device=cpu")
    assert code == 0, err
    for row, line in zip(rows, out.splitlines(), strict=True):
        answer = json.loads(line)
        assert answer["label"] == row["prediction"]
        for name, value in answer["probabilities"].items():
            assert value == pytest.approx(float(row[f"prob_{name}"]), abs=1e-5)


def test_p12_a_limited_evaluation_counts_the_rows_that_it_scored(model_folder, toy_data, tmp_path) -> None:
    data = SST2(data_dir=str(toy_data), tokenizer=str(model_folder("bert")), max_length=32, eval_batch_size=4)
    module = SequenceClassification(Backbone(str(model_folder("bert"))), data=data.data_spec())
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, limit_test_batches=0.3,
        callbacks=[Predictions(tmp_path / "predictions.csv", module.problem)],
    )  # fmt: skip
    trainer.test(module, datamodule=data, verbose=False)
    scored = [int(row["row"]) for row in read_predictions(tmp_path / "predictions.csv")]
    assert len(scored) == len(set(scored)) == module.evaluation_extras["rows"] == data.rows_scored("test") == 8
    lengths = dict(zip(data._encoded["test"]["row"], data._encoded["test"]["length"], strict=True))
    assert sorted(lengths[row] for row in scored) != sorted(lengths.values())[-8:], "the longest rows alone"


def test_p12_a_finished_run_holds_the_same_numbers(finished_run) -> None:
    folder, _ = finished_run
    recorded = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["test"]
    contract_logged_equals_scikit_learn(recorded, folder / "predictions.csv", ["negative", "positive"], 30)
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


def test_p12_breaker_mean_of_batches_fails_the_contract(model_folder, toy_data, tmp_path, monkeypatch) -> None:
    whole = SingleLabelMetrics.update

    def keep_only_the_last_batch(self: SingleLabelMetrics, *batch: torch.Tensor) -> None:
        self.reset()
        whole(self, *batch)

    monkeypatch.setattr(SingleLabelMetrics, "update", keep_only_the_last_batch)
    logged, path = evaluate(model_folder, toy_data, tmp_path, 7)
    with pytest.raises(AssertionError):
        contract_logged_equals_scikit_learn(logged, path, ["negative", "positive"], 30)
