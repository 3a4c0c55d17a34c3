from __future__ import annotations

import importlib.util
import json
import logging

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertForMaskedLM,
    BitsAndBytesConfig,
)  # fmt: skip

from peftlit.backbone import Backbone
from peftlit.backbone import quantization as quantization_module
from peftlit.backbone.architecture import head_modules
from peftlit.backbone.quantization import is_quantized
from peftlit.backbone.weights import load_weights
from peftlit.digest import sha256_of_file
from peftlit.errors import BackboneError, ConfigError
from tests import tiny

BERT = {"model_type": "bert", "vocab_size": 80, **tiny.CONFIGS["bert"]}
AUTO = AutoModelForSequenceClassification
CPU = torch.device("cpu")


def load(backbone: Backbone, *, mixed_precision: bool = False, full: bool = False):
    return load_weights(
        backbone, AUTO, backbone.read_config(num_labels=3), mixed_precision=mixed_precision, full=full, device=CPU
    )[:2]


@pytest.mark.parametrize("arguments", [{}, {"name_or_path": "bert-base-uncased", "config": BERT}])
def test_exactly_one_source_is_named(arguments):
    with pytest.raises(ConfigError, match="give name_or_path .* or config .*, one of the two"):
        Backbone(**arguments)


def test_overrides_replace_entries_and_the_task_comes_last(model_folder):
    config = Backbone(str(model_folder("bert")), config_overrides={"hidden_dropout_prob": 0.3, "num_labels": 7})
    read = config.read_config(num_labels=3)
    assert (read.hidden_dropout_prob, read.num_labels) == (0.3, 3)


def test_an_override_of_no_entry_is_refused(model_folder):
    with pytest.raises(ConfigError, match="config_overrides: 'hidden_dropout' is no entry of BertConfig"):
        Backbone(str(model_folder("bert")), config_overrides={"hidden_dropout": 0.3}).read_config()


def test_the_attention_implementation_is_the_one_asked_for(model_folder):
    model, _ = load(Backbone(str(model_folder("bert")), attn_implementation="eager"))
    assert model.config._attn_implementation == "eager"


def test_code_from_the_hub_needs_a_pinned_revision(tmp_path):
    with pytest.raises(
        ConfigError, match="backbone.revision: got None; to run code of 'someone/model', pin the commit"
    ):
        Backbone("someone/model", trust_remote_code=True)
    with pytest.raises(ConfigError, match="got 'main'; .* pin the commit"):
        Backbone("someone/model", trust_remote_code=True, revision="main")
    Backbone("someone/model", trust_remote_code=True, revision="0123abcd" * 5)
    Backbone(str(tmp_path), trust_remote_code=True)


def test_a_folder_with_its_own_code_is_refused_without_a_prompt(tmp_path):
    entries = {**BERT, "model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(entries))
    (tmp_path / "own.py").write_text("raise RuntimeError('code of the folder ran')")
    with pytest.raises(BackboneError, match="brings its own code; read it, then set trust_remote_code: true"):
        Backbone(str(tmp_path)).read_config()


def test_an_unreachable_model_id_says_what_to_give_instead():
    with pytest.raises(BackboneError, match="cannot read a model from 'no-such/model' .*backbone.name_or_path: /path"):
        Backbone("no-such/model").read_config()


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(BackboneError, match="cannot read a model"):
        Backbone(str(tmp_path)).read_config()


@pytest.mark.parametrize(
    ("config", "message"), [({}, "needs a model_type"), ({"model_type": "brt"}, "backbone.config: .*brt")]
)
def test_a_config_that_names_no_architecture_is_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        Backbone(config=config).read_config()


def test_an_architecture_without_the_task_is_refused():
    backbone = Backbone(config={"model_type": "vit"})
    with pytest.raises(BackboneError, match="'vit' models have no AutoModelForSequenceClassification"):
        backbone.meta_model(AUTO, backbone.read_config())


def test_weights_are_checked_against_their_digest(model_folder):
    folder = model_folder("bert")
    digest = sha256_of_file(folder / "model.safetensors")
    assert load(Backbone(str(folder), sha256=digest))
    with pytest.raises(BackboneError, match=f"has {digest}, expected {'0' * 64}; do not use this file"):
        load(Backbone(str(folder), sha256="0" * 64))


def test_a_digest_in_capitals_is_the_same_digest(model_folder):
    folder = model_folder("bert")
    load(Backbone(str(folder), sha256=sha256_of_file(folder / "model.safetensors").upper()))


def test_a_digest_without_a_file_to_check_is_refused(tmp_path, model_folder):
    (tmp_path / "config.json").write_text((model_folder("bert") / "config.json").read_text())
    with pytest.raises(BackboneError, match="leave sha256 out"):
        load(Backbone(str(tmp_path), sha256="0" * 64))


def test_a_package_brings_weights(tmp_path, monkeypatch):
    (tmp_path / "tiny_bert_weights").mkdir()
    (tmp_path / "tiny_bert_weights" / "__init__.py").touch()
    folder = tiny.write_model(tmp_path / "tiny_bert_weights" / "model", "bert")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    backbone = Backbone("package:tiny_bert_weights")
    assert backbone.location == str(folder)
    assert load(backbone)[1] == ["classifier"]


@pytest.mark.parametrize("quantization", [None, "nf4-double", "int8"])
@pytest.mark.parametrize("source", ["entries", "folder", "file"])
def test_random_weights_are_identical_in_two_builds(quantization, source, model_folder):
    folder = model_folder("bert")
    config = {"entries": BERT, "folder": str(folder), "file": str(folder / "config.json")}[source]
    torch.manual_seed(1)
    first, _ = load(Backbone(config=config, quantization=quantization))
    state = torch.get_rng_state()
    torch.manual_seed(2)
    second, _ = load(Backbone(config=config, quantization=quantization))
    assert not torch.equal(torch.get_rng_state(), state), "building must not set the caller's seed"
    assert is_quantized(first) == (quantization is not None)
    weights = dict(second.named_parameters())
    assert weights
    for name, weight in first.named_parameters():
        assert torch.equal(weight, weights[name]), name


def test_random_weights_have_no_location():
    assert Backbone(config=BERT).location is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nf4", ("nf4", False)),
        ("nf4-double", ("nf4", True)),
        ("fp4", ("fp4", False)),
        ("fp4-double", ("fp4", True)),
    ],
)
def test_short_names_spell_out_4_bit_quantization(name, expected):
    config = Backbone("x", quantization=name, compute_dtype="float32").quantization_config(["classifier"], "cpu")
    assert config.load_in_4bit
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == expected
    assert config.bnb_4bit_compute_dtype == torch.float32
    assert config.llm_int8_skip_modules == ["classifier"]


def test_int8_is_int8():
    config = Backbone("x", quantization="int8").quantization_config([], "cpu")
    assert config.load_in_8bit
    assert not config.load_in_4bit


def test_no_quantization_is_none():
    assert Backbone("x").quantization_config(["classifier"], "cpu") is None


@pytest.mark.parametrize("native", [True, False])
def test_quantized_layers_compute_in_bfloat16_where_native(native, monkeypatch):
    chosen = torch.bfloat16 if native else torch.float32
    monkeypatch.setattr(quantization_module, "low_precision_dtype", lambda _: chosen)
    assert Backbone("x", quantization="nf4").quantization_config([], "cpu").bnb_4bit_compute_dtype == chosen


def test_a_users_quantization_config_is_kept_and_not_changed():
    own = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4", llm_int8_skip_modules=["query"])
    config = Backbone("x", quantization=own).quantization_config(["classifier"], "cpu")
    assert config.bnb_4bit_quant_type == "fp4"
    assert config.llm_int8_skip_modules == ["classifier", "query"]
    assert own.llm_int8_skip_modules == ["query"]


@pytest.mark.parametrize("quantization", ["nf4", BitsAndBytesConfig(load_in_8bit=True)], ids=["name", "object"])
def test_missing_bitsandbytes_is_said_at_once(quantization, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "bitsandbytes" else find(n, *a))
    with pytest.raises(BackboneError, match="pip install bitsandbytes, or set quantization: null"):
        Backbone("x", quantization=quantization)
    Backbone("x")


@pytest.mark.parametrize(
    ("dtype", "mixed_precision", "full", "expected"),
    [
        ("auto", False, False, torch.float32),
        ("auto", True, False, torch.bfloat16),
        ("auto", True, True, torch.float32),
        ("float16", False, False, torch.float16),
        ("float32", True, False, torch.float32),
    ],
)
def test_frozen_weights_are_stored_as_saved_or_as_asked(dtype, mixed_precision, full, expected, tmp_path):
    folder = tiny.write_model(tmp_path / "bert", "bert")
    AutoModel.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    model, _ = load(Backbone(str(folder), dtype=dtype), mixed_precision=mixed_precision, full=full)
    assert model.bert.embeddings.word_embeddings.weight.dtype == expected


def test_all_of_it_comes_frozen(model_folder):
    model, _ = load(Backbone(str(model_folder("bert"))))
    assert not any(p.requires_grad for p in model.parameters())


def test_weights_of_another_architecture_are_refused(tmp_path, model_folder):
    folder = tiny.write_model(tmp_path / "bert", "bert", num_hidden_layers=1)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(
        BackboneError,
        match="lacks 32 weights that the model needs, or has them in another shape, such as 'bert.encoder.layer.1",
    ):
        load(Backbone(str(folder)))


def test_weights_of_another_shape_are_refused_by_one_of_our_errors(model_folder):
    with pytest.raises(BackboneError):
        load(Backbone(str(model_folder("bert")), config_overrides={"intermediate_size": 48}))


def test_a_head_trained_on_another_number_of_labels_is_replaced_or_refused_by_one_of_our_errors(tmp_path, model_folder):
    AUTO.from_pretrained(model_folder("bert"), num_labels=5).save_pretrained(tmp_path)
    try:
        model, heads = load(Backbone(str(tmp_path)))
    except BackboneError as error:
        assert "classifier" in str(error)  # noqa: PT017  both outcomes tell the user what happens
    else:
        assert heads == ["classifier"]
        assert model.classifier.weight.shape[0] == 3


def test_damaged_weights_are_refused_by_one_of_our_errors(tmp_path):
    folder = tiny.write_model(tmp_path / "bert", "bert")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(BackboneError):
        load(Backbone(str(folder)))


def test_pickled_weights_are_not_unpickled(tmp_path):
    folder = tiny.write_model(tmp_path / "bert", "bert")
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(BackboneError):
        load(Backbone(str(folder)))


def test_gradient_checkpointing_is_on_when_asked(model_folder):
    assert load(Backbone(str(model_folder("bert")), gradient_checkpointing=True))[0].is_gradient_checkpointing
    assert not load(Backbone(str(model_folder("bert"))))[0].is_gradient_checkpointing


def test_gradient_checkpointing_is_refused_before_weights_load_where_the_code_has_none(model_folder):
    backbone = Backbone(
        str(model_folder(tiny.CUSTOM_CODE)), gradient_checkpointing=True, **tiny.LOADED_WITH[tiny.CUSTOM_CODE]
    )
    with pytest.raises(BackboneError, match="FusedForSequenceClassification does not support gradient checkpointing"):
        backbone.meta_model(AUTO, backbone.read_config())


def test_code_that_misses_a_package_is_refused_by_one_of_our_errors(model_folder, tmp_path):
    backbone = Backbone(str(model_folder(tiny.CUSTOM_CODE)), trust_remote_code=True)
    with pytest.raises(BackboneError, match="needs xformers; install it, or switch off .*config_overrides"):
        backbone.meta_model(AUTO, backbone.read_config())
    folder = tiny.write_model(tmp_path, tiny.CUSTOM_CODE)
    code = folder / "configuration.py"
    code.write_text("import no_such_package_anywhere\n" + code.read_text())
    with pytest.raises(BackboneError, match="no_such_package_anywhere.*install it"):
        Backbone(str(folder), trust_remote_code=True).read_config()


def test_compute_dtype_of_quantized_layers_is_logged(model_folder, caplog):
    with caplog.at_level(logging.INFO, "peftlit"):
        load(Backbone(str(model_folder("bert")), quantization="nf4", compute_dtype="float32"))
    assert "quantized layers compute in float32" in caplog.text


@pytest.mark.parametrize(
    ("family", "heads"),
    [
        ("bert", ["classifier"]),
        ("distilbert", ["pre_classifier", "classifier"]),
        ("modernbert", ["head", "classifier"]),
        ("deberta-v3", ["pooler", "classifier"]),
    ],
)
def test_heads_are_what_is_not_backbone(family, heads, model_folder):
    backbone = Backbone(str(model_folder(family)))
    assert head_modules(backbone.meta_model(AUTO, backbone.read_config())) == heads
    assert load(backbone)[1] == heads


@pytest.mark.parametrize("auto", [AutoModelForCausalLM, BertForMaskedLM], ids=["causal", "masked"])
def test_language_model_heads_are_found(auto, model_folder):
    backbone = Backbone(str(model_folder("llama" if auto is AutoModelForCausalLM else "bert")))
    config = backbone.read_config()
    model = auto.from_config(config) if auto is AutoModelForCausalLM else auto(config)
    assert head_modules(model) == (["lm_head"] if auto is AutoModelForCausalLM else ["cls"])
