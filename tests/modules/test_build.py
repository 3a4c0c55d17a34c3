from __future__ import annotations

import logging

import pytest

from peftlit.adapters import FullFineTuning
from peftlit.backbone import Backbone
from peftlit.errors import ConfigError
from peftlit.modules import CausalLM
from tests import tiny
from tests.modules.cases import Case, make_module
from tests.modules.language_cases import lora, make_language_module

NOTHING = "model.adapter: null would train nothing, as the pretrained head stays frozen; give one"


@pytest.mark.parametrize(
    ("kind", "family"), [("masked", "bert"), ("masked", "modernbert"), ("text", "llama"), ("labels", "gpt2")]
)
def test_a_pretrained_head_without_an_adapter_is_refused_before_and_after_loading(kind, family, language_folder):
    module = make_language_module(kind, language_folder(family), None)
    with pytest.raises(ConfigError) as early:
        module.check()
    assert module.model is None
    with pytest.raises(ConfigError) as late:
        module.configure_model()
    assert str(early.value) == str(late.value) == NOTHING


def test_random_weights_without_an_adapter_are_refused():
    module = CausalLM(Backbone(config={"model_type": "llama", **tiny.CONFIGS["llama"], "vocab_size": 40}))
    with pytest.raises(ConfigError, match="null would train nothing"):
        module.check()


def test_weights_that_cannot_be_read_are_left_to_the_loading(language_folder, tmp_path):
    for file in language_folder("llama").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: 300 if file.suffix == ".safetensors" else None])
    make_language_module("text", tmp_path, None).check()


def reported(module, caplog) -> str:
    caplog.clear()
    with caplog.at_level(logging.INFO, "peftlit"):
        module.configure_model()
        module.on_fit_start()
    return next(line for line in caplog.text.splitlines() if "trainable" in line)


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "modernbert", "deberta-v3"])
def test_a_new_head_may_train_alone(family, model_folder, caplog):
    module = make_language_module("masked", model_folder(family), None)
    module.check()
    said = reported(module, caplog)
    trained = {name: p.numel() for name, p in module.model.named_parameters() if p.requires_grad}
    assert f"adapter 0, head {sum(trained.values()):,}" in said
    assert set(trained) == set(module.newly_initialized)


def test_parameters_are_reported_by_part(language_folder, model_folder, caplog):
    adapted = make_language_module("text", language_folder("llama"), lora("llama"))
    assert reported(adapted, caplog).endswith("head 0")
    whole = make_language_module("text", language_folder("gpt2"), FullFineTuning())
    assert "(100.00 %): backbone" in reported(whole, caplog)
    head, adapter = 2 * tiny.HIDDEN + 2, 2 * 3 * 2 * 4 * tiny.HIDDEN  # layers, targets, A and B, rank
    said = reported(make_module(Case("bert", "lora"), model_folder("bert")), caplog)
    assert f"trainable {head + adapter:,} of " in said
    assert f"adapter {adapter:,}, head {head:,}" in said
