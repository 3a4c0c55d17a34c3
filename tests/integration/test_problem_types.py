"""Each problem type from a YAML to predictions, on the shipped reviews; scikit-learn counts again what was logged."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, hamming_loss, mean_absolute_error, mean_squared_error

from peftlit.export.load import load
from tests import tiny
from tests.conftest import read_json

REVIEWS = Path(__file__).parents[2] / "configs/data/product_reviews.csv"
LABELS = ("label", "prediction")
HEAD = {"class_path": "PooledHead", "init_args": {"pooling": "mean", "hidden_sizes": [16]}}


def change(settings, column: str, **data) -> None:
    some = {"label_column": column, "batch_size": 16, "max_length": 32, "max_train_samples": 160}
    settings["data"] = {"class_path": "TextFiles", "init_args": {"train_file": str(REVIEWS), **some, **data}}
    settings["trainer"] = {"max_epochs": 1, "accelerator": "cpu"}


def fitted(peftlit, path: Path, run: Path) -> tuple[dict, list[dict[str, str]]]:
    """Fit; return the metrics and the rows of ``predictions.csv``."""
    peftlit.ok("fit", "--config", path, "--run_dir", run)
    with (run / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return read_json(run / "metrics.json"), list(csv.DictReader(file))


def contract_label_sets_equal_scikit_learns(metrics: dict, rows: list[dict[str, str]]) -> None:
    test, thresholds = metrics["test"], metrics["thresholds"]
    truth, given = ([[name in row[key].split(";") for name in thresholds] for row in rows] for key in LABELS)
    assert given == [[float(row[f"prob_{name}"]) >= t - 1e-7 for name, t in thresholds.items()] for row in rows]
    assert test["accuracy"] == pytest.approx(accuracy_score(truth, given), abs=1e-6)
    assert test["hamming_loss"] == pytest.approx(hamming_loss(truth, given), abs=1e-6)
    for average in ("macro", "micro", "weighted"):
        wanted = f1_score(truth, given, average=average, zero_division=0)
        assert test[f"f1_{average}"] == pytest.approx(wanted, abs=1e-6), average
    each = f1_score(truth, given, average=None, zero_division=0)
    assert [test[f"f1_{name}"] for name in thresholds] == pytest.approx(each.tolist(), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("head", [None, HEAD], ids=["auto", "own"])
def test_several_aspects_of_a_review(head, peftlit, settings, write_config, tmp_path) -> None:
    change(settings, "aspects", problem_type="multi_label_classification")
    settings["model"]["init_args"] |= {"head": head, "average": "micro"}
    metrics, rows = fitted(peftlit, write_config(settings), tmp_path / "run")
    contract_label_sets_equal_scikit_learns(metrics, rows)
    assert metrics["test"]["f1"] == metrics["test"]["f1_micro"]
    adapter = tmp_path / "run/adapter"
    saved = read_json(adapter / "problem.json")
    assert saved["thresholds"] == pytest.approx(list(metrics["thresholds"].values()))
    assert len(set(saved["thresholds"])) > 1, "nothing was tuned"
    for command in ("test", "validate"):
        peftlit.ok(command, "--run_dir", tmp_path / "run")
    again = read_json(tmp_path / "run/metrics.json")
    assert again["test"]["f1_micro"] == pytest.approx(metrics["test"]["f1_micro"], abs=1e-6), "thresholds are lost"
    assert again["validation"]["f1"] == pytest.approx(metrics["validation"]["f1"], abs=1e-6), "scored with its own"
    (answer,) = load(adapter, device="cpu").predict(["too expensive and it arrived late"])
    assert answer["labels"] == [n for n, p in answer["probabilities"].items() if p >= metrics["thresholds"][n]]
    broken = {**metrics, "thresholds": dict.fromkeys(metrics["thresholds"], 0.999)}
    with pytest.raises(AssertionError):
        contract_label_sets_equal_scikit_learns(broken, rows)


@pytest.mark.slow
def test_the_stars_of_a_review(peftlit, settings, write_config, tmp_path) -> None:
    change(settings, "stars", problem_type="regression")
    metrics, rows = fitted(peftlit, write_config(settings), tmp_path / "run")
    truth, given = ([float(row[key]) for row in rows] for key in ("label", "prediction"))
    test = metrics["test"]
    assert test["mse"] == pytest.approx(mean_squared_error(truth, given), rel=1e-5)
    assert test["mae"] == pytest.approx(mean_absolute_error(truth, given), rel=1e-5)
    assert test["pearson"] == pytest.approx(stats.pearsonr(truth, given).statistic, abs=1e-5)
    assert test["spearman"] == pytest.approx(stats.spearmanr(truth, given).statistic, abs=1e-5)
    assert test["loss"] == pytest.approx(test["mse"], rel=1e-4)
    assert (tmp_path / "run/predicted_values.png").stat().st_size > 10_000
    (answer,) = load(tmp_path / "run", device="cpu").predict(["a good film"])
    assert isinstance(answer["value"], float)


def f1_of(rows: list[dict[str, str]], **arguments) -> float:
    return f1_score(*([row[key] for row in rows] for key in LABELS), average="macro", **arguments)


@pytest.mark.slow
def test_two_classes_on_one_logit_with_a_head_alone(peftlit, settings, write_config, tmp_path) -> None:
    loss = {"class_path": "BinaryCrossEntropy", "init_args": {"pos_weight": "balanced"}}
    settings["model"]["init_args"] |= {"adapter": None, "head": {"class_path": "PooledHead"}, "loss": loss}
    settings["trainer"]["max_epochs"] = 1
    metrics, rows = fitted(peftlit, write_config(settings), tmp_path / "run")
    for row in rows:
        assert float(row["prob_negative"]) + float(row["prob_positive"]) == pytest.approx(1, abs=1e-6)
    assert metrics["test"]["f1_macro"] == pytest.approx(f1_of(rows), abs=1e-6)
    assert load(tmp_path / "run", device="cpu").predict(["good"])[0]["label"] in ("negative", "positive")
    peftlit.ok("test", "--run_dir", tmp_path / "run")


@pytest.mark.slow
def test_weights_for_classes_of_different_size(peftlit, settings, write_config, tmp_path) -> None:
    change(settings, "label", label_names=["negative", "mixed", "positive"])
    weighted = {"class_weights": "balanced", "label_smoothing": 0.1}
    settings["model"]["init_args"]["loss"] = {"class_path": "CrossEntropy", "init_args": weighted}
    metrics, rows = fitted(peftlit, write_config(settings), tmp_path / "run")
    assert metrics["test"]["rows"] == len(rows)
    assert metrics["test"]["f1_mixed"] == pytest.approx(f1_of(rows, labels=["mixed"]), abs=1e-6)


@pytest.mark.slow
def test_a_recipe_like_stellas_on_real_reviews(shared, peftlit, tmp_path) -> None:
    """Own head on code of a model's own, 2 x 8, paged AdamW, cosine, early stopping and best by F1: all files."""
    model = tmp_path / "fused"
    model.mkdir()
    without_class = {k: v for k, v in tiny.AUTO_MAP.items() if k != "AutoModelForSequenceClassification"}
    tiny.write_custom_code(model, auto_map=without_class)
    splits = [shared / f"data/fake_reviews/{name}.jsonl" for name in ("train", "validation", "test")]
    lines = [json.loads(line) for file in splits for line in file.read_text(encoding="utf-8").splitlines()]
    with (tmp_path / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([line["text"], ("CG", "OR")[line["label"]]] for line in lines[:800])
    recipe = Path(__file__).parents[2] / "configs/recipes/stella-reviews-qlora.yaml"
    _, err = peftlit.ok(
        "fit", "--config", recipe, "--run_dir=run", "--data.file=reviews.csv", "--data.max_length=64",
        f"--model.backbone.name_or_path={model}", "--trainer.accelerator=cpu", "--model.optimizer.lr=1e-3",
    )  # fmt: skip
    assert "the same hidden states, and peftlit.load the same logits" in err
    run = tmp_path / "run"
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert names >= {
        "config.yaml", "metrics.json", "predictions.csv", "split_manifest.json", "confusion_matrix.png",
        "learning_curves.png", "adapter/adapter_config.json", "adapter/adapter_model.safetensors",
        "adapter/head.safetensors", "adapter/head.json", "adapter/trainer_state.json", "adapter/tokenizer.json",
        "adapter/tokenizer_config.json", "adapter/label_map.json", "adapter/problem.json", "adapter/backbone.json",
    }  # fmt: skip
    metrics = read_json(run / "metrics.json")
    state = read_json(run / "adapter/trainer_state.json")
    scores = [entry["eval_f1_weighted"] for entry in state["log_history"] if "eval_f1_weighted" in entry]
    assert metrics["validation"]["f1"] == max(scores) == state["best_metric"]
    assert metrics["test"]["rows"] == 160
    assert state["max_steps"] == 3 * -(-576 // 16)
