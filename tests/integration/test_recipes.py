"""Recipes for five optimizer steps on random weights: two in their true width, all of them small under ``debug``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.configs.stand_ins import CONFIGS, OVERLAYS, RECIPES, name_of, write_stand_in
from tests.conftest import read_json, run_in_process


def contract_five_steps(folder: Path, name: str, batches: int, trainable: int) -> None:
    """With two layers of the true width; all layers are counted without memory, in ``test_card_numbers.py``."""
    recipe = CONFIGS / f"recipes/{name}.yaml"
    stand_in = write_stand_in(recipe, folder, small=False, layers=2)
    steps = ["--trainer.max_epochs=1", f"--trainer.limit_train_batches={batches}", "--run_dir=run"]
    done = run_in_process(folder, "fit", "--config", recipe, "--config", stand_in, *steps, "--trainer.accelerator=cpu")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "peftlit: trainable " in line]
    assert f"trainable {trainable:,} of" in line
    assert "answers the same" in done.stderr
    fitted = read_json(folder / "run/metrics.json")
    assert fitted["step"] == 5
    (folder / "run/predictions.csv").unlink()
    done = run_in_process(folder, "test", "--run_dir=run")
    assert done.returncode == 0, done.stderr
    tested = read_json(folder / "run/metrics.json")
    assert tested["test"].pop("confusion_matrix") == fitted["test"].pop("confusion_matrix")
    assert tested["test"] == pytest.approx(fitted["test"], abs=1e-6)
    assert (folder / "run/predictions.csv").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "batches", "trainable"),
    [
        ("distilbert-sst2-qlora", 5, 739_586 - 147_456 * 4 // 6),
        # in all of 24 layers 2,359,296 in the adapter (0.54 % of the model); 1,025 in the head
        ("stella-reviews-qlora", 5 * 8, 2_359_296 * 2 // 24 + 1_025),
    ],
)
def test_two_layers_of_a_recipe_in_their_true_width(name, batches, trainable, tmp_path) -> None:
    contract_five_steps(tmp_path, name, batches, trainable)


DEBUGGED = {  # each recipe with one overlay more; 8gb only where the stand-in can recompute activations
    "recipes/distilbert-imdb-hira": "int8",
    "recipes/distilbert-sst2-qlora": "8gb",
    "recipes/minilm-reviews-qlora": "nf4",
    "recipes/minilm-sst2-qlora": "int8",
    "recipes/minilm-imdb-qlora": "8gb",
    "recipes/minilm-tweets-qlora": "cpu",
    "recipes/stella-reviews-qlora": "cpu",
    "recipes/as_run/bert-sst2-qlora": "8gb",
    "recipes/as_run/distilbert-imdb-lora-r32": "nf4",
    "recipes/bert-wikitext2-qlora": "8gb",
    "recipes/minilm-wikitext2-mlm": "int8",
    "recipes/stories-tweets-likelihood": "nf4",
    "recipes/tinyllama-tweets-qlora": "8gb",
    "recipes/as_run/tinyllama-tweets-qlora": "cpu",
    "quickstart": "cpu",
    "quickstart-chat": "nf4",
    "recipes/smollm2-tweets-qlora": "8gb",
}


def test_debug_meets_every_recipe_and_every_other_overlay() -> None:
    assert DEBUGGED.keys() == {name_of(recipe) for recipe in RECIPES}
    assert {*DEBUGGED.values(), "debug"} == {overlay.stem for overlay in OVERLAYS}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "other"), DEBUGGED.items())
def test_debug_sees_a_recipe_through(name: str, other: str, peftlit, tmp_path) -> None:
    recipe = CONFIGS / f"{name}.yaml"
    stand_in = write_stand_in(recipe, tmp_path, small=True)
    files = [recipe, CONFIGS / "overlays/debug.yaml", CONFIGS / f"overlays/{other}.yaml", stand_in]
    configs = [argument for file in files for argument in ("--config", file)]
    _, err = peftlit.ok("fit", *configs, "--run_dir=run")
    assert "answers the same" in err
    run = tmp_path / "run"
    state = read_json(run / "adapter/trainer_state.json")
    assert [entry["step"] for entry in state["log_history"] if "loss" in entry] == [1, 2, 3, 4, 5]
    metrics = read_json(run / "metrics.json")
    assert metrics["step"] == 5
    assert metrics["test"]["loss"] > 0
    stored = read_json(run / "adapter/quantization_config.json")
    assert stored["load_in_8bit"] == (other == "int8")
