"""P11: texts in settings and records stay texts: from YAML to the export and to ``load``, whatever YAML would read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace

import peftlit as package
from peftlit.cli import lightning_cli, links
from tests.data.helpers import write_jsonl

TEMPLATE = "Tweet: {text}\nSentiment:"
NAMES = [
    ("null", "# a"),
    ("~", "12"),
    ("yes", "0x10"),
    ("1_000", "[a, b]"),
    ("Tweet: {x}", "- a"),
    ("{a: b}", "2020-01-01"),
]
"""Label names, of which YAML would make something else."""


def contract_texts_arrive(folder: Path, model: Path, names: tuple[str, str], template: str, peftlit: Any) -> None:
    """A run, and the run that its saved configuration describes, export and load the texts that were typed."""
    column = names[0] + ": text"
    rows = [{column: f"a film {i}", "label": names[i % 2]} for i in range(12)]
    write_jsonl(folder / "rows.jsonl", rows)
    settings = {
        "model": {
            "class_path": "CausalLM",
            "init_args": {
                "backbone": {"name_or_path": str(model), "config_overrides": {"hidden_act": "silu", "bos_token_id": 1}},
                "adapter": {"class_path": "peft.LoraConfig", "init_args": {"r": 2, "target_modules": ["q_proj"]}},
            },
        },
        "data": {
            "class_path": "TextFiles",
            "init_args": {
                "train_file": str(folder / "rows.jsonl"), "validation_share": 0.25, "max_length": 64,
                "text_column": column, "label_names": list(names), "strict": False,
                "prompt": {"template": template, "label_words": [" good", " bad"]},
            },
        },
        "trainer": {"max_steps": 0, "accelerator": "cpu"},
    }  # fmt: skip
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    for run in ("typed", "saved"):
        code, _, err = peftlit("fit", "--config", config, "--run_dir", folder / run)
        assert code == 0, err
        record = json.loads((folder / run / "adapter/problem.json").read_text(encoding="utf-8"))
        assert record["label_names"] == list(names)
        assert record["text_columns"] == [column]
        assert (record["prompt"]["template"], record["prompt"]["label_words"]) == (template, [" good", " bad"])
        classifier = package.load(folder / run, device="cpu")
        assert classifier.prompts.prompt.template == template
        assert {answer["label"] for answer in classifier.predict(["a film"])} <= set(names)
        config = folder / run / "config.yaml"


@pytest.mark.parametrize("names", NAMES, ids=str)
def test_p11_texts_arrive_as_they_were_typed(names, language_folder, tmp_path, peftlit) -> None:
    contract_texts_arrive(tmp_path, language_folder("llama"), names, TEMPLATE, peftlit)


def test_p11_goes_red_when_facts_of_the_data_are_parsed_again(language_folder, tmp_path, monkeypatch, peftlit) -> None:
    def as_settings(settings: Namespace, data: Any) -> None:
        links.link_to_model(settings, data)
        settings["model"]["init_args"]["data"] = Namespace(**vars(settings["model"]["init_args"]["data"]))

    monkeypatch.setattr(lightning_cli, "link_to_model", as_settings)
    with pytest.raises(AssertionError):
        contract_texts_arrive(tmp_path, language_folder("llama"), ("bad", "good"), TEMPLATE, peftlit)


OVERRIDES = {"a": "12", "b": "null", "c": {"d": "no", "e": ["a: b", 1, None]}, "f": [["yes"], {"g": "0x10"}], "h": 1e-3}


def test_p11_entries_of_a_models_config_keep_their_kind(tmp_path) -> None:
    config = tmp_path / "config.yaml"
    backbone = {"config": {"model_type": "bert", **OVERRIDES}, "config_overrides": OVERRIDES}
    model = {"class_path": "SequenceClassification", "init_args": {"backbone": backbone}}
    config.write_text(yaml.safe_dump({"model": model}), encoding="utf-8")
    for _ in range(2):
        parser = lightning_cli.Parser()
        parser.add_subclass_arguments(package.modules.PeftModule, "model")
        parser.add_argument("--config", action="config")
        parsed = parser.parse_args([f"--config={config}"])
        backbone = parsed["model"]["init_args"]["backbone"]
        read = backbone.get("init_args", backbone)
        assert read["config_overrides"] == OVERRIDES
        assert read["config"] == {"model_type": "bert", **OVERRIDES}
        config.write_text(parser.dump(parsed), encoding="utf-8")
