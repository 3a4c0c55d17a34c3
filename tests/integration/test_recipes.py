"""Both recipes with their true shapes and random weights: five optimizer steps, then a test from the run folder."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests import tiny
from tests.conftest import run_in_process, toy_rows

RECIPES = Path(__file__).parents[2] / "configs" / "recipes"


def trainable_line(stderr: str) -> str:
    return next(line for line in stderr.splitlines() if "peftlit: trainable " in line)


def random_weights(folder: Path, config: object) -> Path:
    """An overlay that puts random weights of a true shape in the place of the recipe's."""
    path = folder / "random_weights.yaml"
    backbone = {"name_or_path": None, "config": config}
    path.write_text(yaml.safe_dump({"model": {"init_args": {"backbone": backbone}}}), encoding="utf-8")
    return path


def contract_five_steps_then_test(folder: Path, arguments: list[object], batches: int, trainable: str) -> None:
    steps = ["--trainer.max_epochs=1", f"--trainer.limit_train_batches={batches}", "--run_dir=run"]
    steps += ["--trainer.accelerator=cpu"]
    done = run_in_process(folder, "fit", *arguments, *steps)
    assert done.returncode == 0, done.stderr
    assert f"trainable {trainable} of" in trainable_line(done.stderr)
    assert "answers the same" in done.stderr
    fitted = json.loads((folder / "run/metrics.json").read_text())
    assert fitted["step"] == 5
    (folder / "run/predictions.csv").unlink()
    done = run_in_process(folder, "test", "--run_dir=run")
    assert done.returncode == 0, done.stderr
    tested = json.loads((folder / "run/metrics.json").read_text())
    assert tested["test"].pop("confusion_matrix") == fitted["test"].pop("confusion_matrix")
    assert tested["test"] == pytest.approx(fitted["test"], abs=1e-6)
    assert (folder / "run/predictions.csv").is_file()


@pytest.mark.slow
def test_distilbert_sst2_qlora_in_its_true_shape(tmp_path, toy_data) -> None:
    tiny.write_tokenizer(tmp_path / "tokenizer")
    overlay = random_weights(tmp_path, {"model_type": "distilbert"})
    data = [f"--data.data_dir={toy_data}", "--data.tokenizer=tokenizer"]
    arguments = ["--config", RECIPES / "distilbert-sst2-qlora.yaml", "--config", overlay, *data]
    contract_five_steps_then_test(tmp_path, arguments, 5, "739,586")


@pytest.mark.slow
def test_stella_reviews_qlora_in_its_true_shape(tmp_path) -> None:
    tiny.write_tokenizer(tmp_path / "tokenizer")
    model = tmp_path / "fused_400m"
    model.mkdir()
    for code in (Path(tiny.__file__).parent / "custom_code").glob("*.py"):
        shutil.copy(code, model)
    (model / "config.json").write_text(json.dumps({"model_type": "fused_encoder", "auto_map": tiny.AUTO_MAP}))
    with (tmp_path / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([row["text"], ("OR", "CG")[row["label"]]] for row in toy_rows(150))
    overlay = random_weights(tmp_path, "fused_400m")
    recipe = RECIPES / "stella-reviews-qlora.yaml"
    arguments = ["--config", recipe, "--config", overlay, "--data.tokenizer=tokenizer"]
    # 2,359,296 in the adapter (0.54 % of the model), 2,050 in the head
    contract_five_steps_then_test(tmp_path, arguments, 5 * 8, "2,361,346")


def test_masked_language_model_targets_on_bert_are_refused_with_berts_own_names(
    peftlit, settings, write_config
) -> None:
    settings["model"]["init_args"]["adapter"]["init_args"]["target_modules"] = ["q_lin", "v_lin"]
    code, _, err = peftlit("fit", "--config", write_config(settings))
    assert code == 1
    assert err.splitlines()[-1].endswith("its linear layers are query, key, value, dense, classifier")
