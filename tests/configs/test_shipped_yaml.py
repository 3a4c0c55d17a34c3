"""Every recipe parses, says what it is and how to run it, and prints to a config that parses to the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.configs.stand_ins import CONFIGS, OVERLAYS, RECIPES, flat, header_of, name_of, read, write_stand_in
from tests.conftest import errors_of
from tools import card_002


def test_all_shipped_files_are_found() -> None:
    assert {name_of(path) for path in CONFIGS.rglob("*.yaml")} == {name_of(path) for path in RECIPES + OVERLAYS}
    assert len(RECIPES) == 17  # test_card_numbers.py names them
    assert {path.stem for path in OVERLAYS} == {"8gb", "cpu", "debug", "int8", "nf4"}


def test_all_recipes_parse_and_round_trip(parser, parsed, tmp_path) -> None:
    """A recipe that asks for the same classes as another is printed as that one is."""
    kinds = {}
    for path in RECIPES:
        parsed(path)
        settings = flat(read(path))
        kinds[tuple(value for key, value in settings.items() if key.endswith(("class_path", "quantization")))] = path
    assert len(kinds) > 3
    for number, path in enumerate(kinds.values()):
        printed = yaml.safe_load(parser.dump(parser.parse_args(["fit", "--config", str(path)])))["fit"]
        again = tmp_path / f"{number}.yaml"
        again.write_text(yaml.safe_dump(printed | {"config": None}), encoding="utf-8")
        assert parsed(again) == parsed(path), path


def fields_of(path: Path) -> dict[str, str]:
    """The lines ``# Name:   text`` of a header."""
    lines = [line.removeprefix("# ").partition(":") for line in header_of(path)]
    return {name: text.strip() for name, colon, text in lines if colon and name[:1].isupper() and text.startswith("  ")}


def test_headers_are_in_one_form_and_point_to_what_is_there() -> None:
    for path in RECIPES:
        fields = fields_of(path)
        of_a_card = [] if fields["Card"] == "none" else ["States", "In truth"]
        assert list(fields) == ["Card", *of_a_card, "Trains", "Memory", "Score"], path
        assert all(fields.values()), path
        words = [word.strip(".,:") for line in header_of(path) for word in line.split()]
        assert all((CONFIGS / word).is_file() for word in words if word.startswith("recipes/")), path


def test_headers_say_how_to_run_it() -> None:
    for path in [*RECIPES, *OVERLAYS]:
        name = path.relative_to(CONFIGS.parent).as_posix()
        config = f"--config RECIPE --config {name}" if path in OVERLAYS else f"--config {name}"
        assert any(line.startswith(f"#   python -m peftlit fit {config}") for line in header_of(path)), path


def test_stella_recipe_holds_every_stated_setting() -> None:
    recipe = read(CONFIGS / "recipes/stella-reviews-qlora.yaml")
    model, data, trainer = recipe["model"]["init_args"], recipe["data"]["init_args"], recipe["trainer"]
    lora = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": ["qkv_proj", "o_proj"]}
    assert model["backbone"]["quantization"] == "nf4-double"
    assert model["adapter"]["init_args"] == lora
    assert model["optimizer"] == {"class_path": "peftlit.plugins.PagedAdamW8bit", "init_args": {"lr": 1e-5}}
    assert model["scheduler"]["class_path"] == "CosineWarmup"
    assert (data["batch_size"], trainer["accumulate_grad_batches"], data["max_length"]) == (2, 8, 512)
    assert trainer["max_epochs"] == 3
    assert {c["class_path"] for c in trainer["callbacks"]} == {"ModelCheckpoint", "EarlyStopping"}


FOUR_METHODS = {  # recipe: backbone, quantization, data, max_length, learning rate, adapter
    "distilbert-sst2-qlora": ("distilbert-base-uncased", "nf4-double", "SST2", 128, 3e-4, {
        "r": 8, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": ["q_lin", "v_lin"]}),
    "as_run/bert-sst2-qlora": ("bert-base-uncased", "nf4-double", "SST2", 128, 3e-4, {
        "r": 8, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": ["query", "key", "value"]}),
    "distilbert-imdb-hira": ("distilbert-base-uncased", None, "IMDB", 512, 4.5e-3, {
        "r": 32, "hira_dropout": 0.1, "target_modules": ["q_lin", "v_lin"]}),
    "as_run/distilbert-imdb-lora-r32": ("distilbert-base-uncased", None, "IMDB", 512, 3e-4, {
        "r": 32, "lora_alpha": 64, "lora_dropout": 0.1, "target_modules": ["q_lin", "v_lin"]}),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUR_METHODS)
def test_recipes_of_the_four_methods_differ_in_what_is_named_here_and_in_nothing_else(name: str) -> None:
    backbone, quantization, data, max_length, rate, adapter = FOUR_METHODS[name]
    method = "peft.HiraConfig" if "hira_dropout" in adapter else "peft.LoraConfig"
    stored = {} if quantization is None else {"quantization": quantization}
    assert read(CONFIGS / f"recipes/{name}.yaml") == {
        "seed_everything": 42,
        "model": {
            "class_path": "SequenceClassification",
            "init_args": {
                "backbone": {"name_or_path": backbone, **stored},
                "adapter": {"class_path": method, "init_args": adapter},
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": rate, "weight_decay": 0.01}},
                "scheduler": {"class_path": "LinearWarmup", "init_args": {"num_warmup_steps": 100}},
            },
        },
        "data": {"class_path": data, "init_args": {"batch_size": 16, "max_length": max_length}},
        "trainer": {"max_epochs": 3, "gradient_clip_val": 1.0},
    }


def test_the_masked_language_model_of_the_four_methods_differs_in_its_task_and_data_alone() -> None:
    classifier, language_model = (
        read(CONFIGS / f"recipes/{name}.yaml") for name in ("as_run/bert-sst2-qlora", "bert-wikitext2-qlora")
    )
    assert language_model["model"].pop("class_path") == "MaskedLM"
    assert language_model.pop("data") == {"class_path": "WikiText2", "init_args": {"batch_size": 16, "max_length": 256}}
    del classifier["data"], classifier["model"]["class_path"]
    assert language_model == classifier


def test_the_card_of_bert_on_wikitext2_as_it_stands_is_refused_with_berts_own_names(peftlit, tmp_path) -> None:
    recipe = CONFIGS / "recipes/bert-wikitext2-qlora.yaml"
    stand_in = write_stand_in(recipe, tmp_path, small=True)
    stated = "--model.adapter.init_args.target_modules=[q_lin, v_lin]"
    code, _, err = peftlit("fit", "--config", recipe, "--config", stand_in, stated)
    (error,) = errors_of(err)
    assert code != 0
    assert "adapter.target_modules: 'q_lin', 'v_lin' matches no module of BertForMaskedLM" in error
    assert all(name in error for name in ("query", "key", "value"))


def test_what_a_card_means_and_what_it_describes_differ_in_the_data_alone() -> None:
    means, describes = (read(CONFIGS / f"recipes/{name}tinyllama-tweets-qlora.yaml") for name in ("", "as_run/"))
    ours, theirs = means.pop("data"), describes.pop("data")
    assert means == describes
    assert (ours["class_path"], theirs["class_path"]) == ("TweetSentiment", "ChatFiles")
    assert theirs["init_args"]["completion_only"] is False
    assert ours["init_args"]["prompt"] == {"system": card_002.SYSTEM}
    assert all(ours["init_args"][key] == theirs["init_args"][key] for key in ("batch_size", "max_length"))


def test_tinyllama_recipe_holds_every_stated_setting() -> None:
    recipe = read(CONFIGS / "recipes/tinyllama-tweets-qlora.yaml")
    model = recipe["model"]["init_args"]
    stored = {"quantization": "nf4-double", "compute_dtype": "bfloat16"}
    assert model["backbone"] == {"name_or_path": "TinyLlama/TinyLlama-1.1B-Chat-v1.0", **stored}
    assert model["adapter"]["init_args"]["target_modules"] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert model["scheduler"]["class_path"] == "CosineWarmup"
    assert recipe["trainer"]["accumulate_grad_batches"] > 1
