from __future__ import annotations

import importlib.util
import json
import logging

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BertForMaskedLM, BitsAndBytesConfig

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


CODE = {"trust_remote_code": True}
CHECKPOINTING = {"gradient_checkpointing": True, **tiny.LOADED_WITH[tiny.CUSTOM_CODE]}


def make(backbone: Backbone):
    return backbone


def read(backbone: Backbone):
    return backbone.read_config()


def meta(backbone: Backbone):
    return backbone.meta_model(AUTO, backbone.read_config())


def load(backbone: Backbone, *, mixed_precision: bool = False, full: bool = False):
    return load_weights(
        backbone, AUTO, backbone.read_config(num_labels=3), mixed_precision=mixed_precision, full=full, device=CPU
    )[:2]


@pytest.fixture
def bert(model_folder) -> str:
    return str(model_folder("bert"))


@pytest.fixture
def bert_copy(tmp_path):
    return tiny.write_model(tmp_path / "bert", "bert")


@pytest.mark.parametrize(
    ("source", "settings", "use", "error", "said"),
    [
        (None, {}, make, ConfigError, "give name_or_path .* or config .*, one of the two"),
        ("some/model", {"config": BERT}, make, ConfigError, "give name_or_path .* or config .*, one of the two"),
        ("some/model", CODE, make, ConfigError, "revision: got None; to run code of 'some/model', pin the commit"),
        ("some/model", {**CODE, "revision": "main"}, make, ConfigError, "got 'main'; .* pin the commit"),
        ("no-such/model", {}, read, BackboneError, "cannot read a model from 'no-such/model' .*name_or_path: /path"),
        ("an empty folder", {}, read, BackboneError, "cannot read a model from .*backbone.name_or_path: /path"),
        (None, {"config": {}}, read, ConfigError, "needs a model_type"),
        (None, {"config": {"model_type": "brt"}}, read, ConfigError, "backbone.config: .*brt"),
        ("bert", {"config_overrides": {"hidden_dropout": 0.3}}, read, ConfigError,
         "config_overrides: 'hidden_dropout' is no entry of BertConfig"),
        (None, {"config": {"model_type": "vit"}}, meta, BackboneError,
         "'vit' models have no AutoModelForSequenceClassification"),
        ("code", CHECKPOINTING, meta, BackboneError,
         "FusedForSequenceClassification does not support gradient checkpointing"),
        ("code", CODE, meta, BackboneError, "needs xformers; install it, or switch off .*config_overrides"),
        ("bert", {"config_overrides": {"intermediate_size": 48}}, load, BackboneError, "bert"),
    ],
)  # fmt: skip
def test_what_is_asked_wrongly_is_refused(source, settings, use, error, said, model_folder, tmp_path):
    folders = {"an empty folder": tmp_path, "bert": model_folder("bert"), "code": model_folder(tiny.CUSTOM_CODE)}
    source = str(folders[source]) if source in folders else source
    with pytest.raises(error, match=said):
        use(Backbone(source, **settings))


def test_code_runs_from_a_pinned_commit_or_a_folder(tmp_path):
    Backbone("some/model", **CODE, revision="0123abcd" * 5)
    Backbone(str(tmp_path), **CODE)


def test_overrides_replace_entries_and_the_task_comes_last(bert):
    config = Backbone(bert, config_overrides={"hidden_dropout_prob": 0.3, "num_labels": 7})
    read = config.read_config(num_labels=3)
    assert (read.hidden_dropout_prob, read.num_labels) == (0.3, 3)


def test_a_model_comes_frozen_with_the_attention_and_checkpointing_asked_for(bert):
    model, _ = load(Backbone(bert, attn_implementation="eager", gradient_checkpointing=True))
    assert model.config._attn_implementation == "eager"
    assert not any(p.requires_grad for p in model.parameters())
    assert model.is_gradient_checkpointing
    assert not load(Backbone(bert))[0].is_gradient_checkpointing


def test_a_folder_with_its_own_code_is_refused(tmp_path):
    entries = {**BERT, "model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(entries))
    (tmp_path / "own.py").write_text("raise RuntimeError('code of the folder ran')")
    with pytest.raises(BackboneError, match="brings its own code; read it, then set trust_remote_code: true"):
        Backbone(str(tmp_path)).read_config()


def test_weights_are_checked_against_their_digest_where_there_is_a_file(bert_copy):
    digest = sha256_of_file(bert_copy / "model.safetensors")
    load(Backbone(str(bert_copy), sha256=digest.upper()))
    with pytest.raises(BackboneError, match=f"has {digest}, expected {'0' * 64}; do not use this file"):
        load(Backbone(str(bert_copy), sha256="0" * 64))
    (bert_copy / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match="leave sha256 out"):
        load(Backbone(str(bert_copy), sha256=digest))


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
    assert Backbone(config=config).location is None
    torch.manual_seed(1)
    first, _ = load(Backbone(config=config, quantization=quantization))
    state = torch.get_rng_state()
    torch.manual_seed(2)
    second, _ = load(Backbone(config=config, quantization=quantization))
    assert not torch.equal(torch.get_rng_state(), state), "building must not set the caller's seed"
    assert is_quantized(first) == (quantization is not None)
    for (name, weight), other in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(weight, other), name


def test_short_names_of_quantizations():
    for name in ("nf4", "nf4-double", "fp4", "fp4-double"):
        config = Backbone("x", quantization=name, compute_dtype="float32").quantization_config(["classifier"], "cpu")
        assert config.load_in_4bit
        assert (config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == (name[:3], name.endswith("double"))
        assert config.bnb_4bit_compute_dtype == torch.float32
        assert config.llm_int8_skip_modules == ["classifier"]
    config = Backbone("x", quantization="int8").quantization_config([], "cpu")
    assert (config.load_in_8bit, config.load_in_4bit) == (True, False)
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
def test_frozen_weights_are_stored_as_saved_or_as_asked(dtype, mixed_precision, full, expected, bert_copy):
    AUTO.from_pretrained(bert_copy, dtype=torch.bfloat16).save_pretrained(bert_copy)
    model, _ = load(Backbone(str(bert_copy), dtype=dtype), mixed_precision=mixed_precision, full=full)
    assert model.bert.embeddings.word_embeddings.weight.dtype == expected


def test_weights_of_another_architecture_are_refused(bert_copy):
    config = json.loads((bert_copy / "config.json").read_text())
    (bert_copy / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    said = "lacks 32 weights that the model needs, or has them in another shape, such as 'bert.encoder.layer.2"
    with pytest.raises(BackboneError, match=said):
        load(Backbone(str(bert_copy)))


def test_a_head_trained_on_another_number_of_labels_is_replaced(tmp_path, bert):
    AUTO.from_pretrained(bert, num_labels=5).save_pretrained(tmp_path)
    model, heads = load(Backbone(str(tmp_path)))
    assert heads == ["classifier"]
    assert model.classifier.weight.shape[0] == 3


def test_damaged_and_pickled_weights_are_refused(bert_copy):
    weights = bert_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(BackboneError, match="cannot load"):
        load(Backbone(str(bert_copy)))
    weights.unlink()
    torch.save({}, bert_copy / "pytorch_model.bin")
    with pytest.raises(BackboneError, match="are pickles"):
        load(Backbone(str(bert_copy)))


def test_code_that_misses_a_package_is_refused_by_one_of_our_errors(tmp_path):
    code = tiny.write_model(tmp_path, tiny.CUSTOM_CODE) / "configuration.py"
    code.write_text("import no_such_package_anywhere\n" + code.read_text())
    with pytest.raises(BackboneError, match="no_such_package_anywhere.*install it"):
        read(Backbone(str(tmp_path), **CODE))


def test_compute_dtype_of_quantized_layers_is_logged(bert, caplog):
    with caplog.at_level(logging.INFO, "peftlit"):
        load(Backbone(bert, quantization="nf4", compute_dtype="float32"))
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
    assert head_modules(meta(backbone)) == load(backbone)[1] == heads


def test_language_model_heads_are_found(model_folder):
    for family, auto, head in (("llama", AutoModelForCausalLM, "lm_head"), ("bert", BertForMaskedLM, "cls")):
        config = read(Backbone(str(model_folder(family))))
        model = auto.from_config(config) if auto is AutoModelForCausalLM else auto(config)
        assert head_modules(model) == [head]
