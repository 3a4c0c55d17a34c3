"""Every YAML that is shipped parses, says how to run it, and prints to a config that parses to the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted(CONFIGS.rglob("*.yaml"))


def test_all_shipped_files_are_found() -> None:
    names = {path.relative_to(CONFIGS).as_posix() for path in SHIPPED}
    assert names == {
        "quickstart.yaml",
        "recipes/distilbert-sst2-qlora.yaml",
        "recipes/minilm-reviews-qlora.yaml",
        "recipes/minilm-sst2-qlora.yaml",
        "recipes/stella-reviews-qlora.yaml",
    }


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_it_parses_and_round_trips(path: Path, peftlit, tmp_path) -> None:
    code, out, err = peftlit("fit", "--config", path, "--print_config")
    assert code == 0, err
    (tmp_path / "again.yaml").write_text(out, encoding="utf-8")
    code, again, err = peftlit("fit", "--config", tmp_path / "again.yaml", "--print_config")
    assert code == 0, err
    assert yaml.safe_load(again) == yaml.safe_load(out)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_its_header_says_how_to_run_it(path: Path) -> None:
    header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    name = path.relative_to(CONFIGS.parent).as_posix()
    assert any(f"python -m peftlit fit --config {name}" in line for line in header)


def test_stella_recipe_holds_every_stated_setting() -> None:
    recipe = yaml.safe_load((CONFIGS / "recipes/stella-reviews-qlora.yaml").read_text(encoding="utf-8"))
    model, data, trainer = recipe["model"]["init_args"], recipe["data"]["init_args"], recipe["trainer"]
    assert model["backbone"]["quantization"] == "nf4-double"
    assert model["adapter"]["init_args"] == {
        "r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "target_modules": ["qkv_proj", "o_proj"],
    }
    assert model["optimizer"] == {"class_path": "peftlit.plugins.PagedAdamW8bit", "init_args": {"lr": 1e-5}}
    assert model["scheduler"]["class_path"] == "CosineWarmup"
    assert (data["batch_size"], trainer["accumulate_grad_batches"], data["max_length"]) == (2, 8, 512)
    assert trainer["max_epochs"] == 3
    assert {c["class_path"] for c in trainer["callbacks"]} == {"ModelCheckpoint", "EarlyStopping"}


def test_distilbert_recipe_holds_every_stated_setting() -> None:
    recipe = yaml.safe_load((CONFIGS / "recipes/distilbert-sst2-qlora.yaml").read_text(encoding="utf-8"))
    model, data, trainer = recipe["model"]["init_args"], recipe["data"]["init_args"], recipe["trainer"]
    assert model["backbone"] == {"name_or_path": "distilbert-base-uncased", "quantization": "nf4-double"}
    assert model["adapter"]["init_args"] == {
        "r": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.1,
        "target_modules": ["q_lin", "v_lin"],
    }
    assert model["optimizer"] == {"class_path": "torch.optim.AdamW", "init_args": {"lr": 3e-4, "weight_decay": 0.01}}
    assert model["scheduler"] == {"class_path": "LinearWarmup", "init_args": {"num_warmup_steps": 100}}
    assert (data["batch_size"], data["max_length"], trainer["max_epochs"]) == (16, 128, 3)
