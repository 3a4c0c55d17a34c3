from __future__ import annotations

import pytest
from peft import LoraConfig, PrefixTuningConfig
from transformers import AutoModelForSequenceClassification

from peftlit.adapters.targets import check_targets
from peftlit.backbone import Backbone
from peftlit.backbone.architecture import linear_layers
from peftlit.errors import AdapterError
from tests import tiny


@pytest.fixture(scope="module")
def meta_model():
    backbone = Backbone(config={"model_type": "distilbert", **tiny.CONFIGS["distilbert"]})
    return backbone.meta_model(AutoModelForSequenceClassification, backbone.read_config())


def check(targets, meta_model) -> None:
    check_targets(LoraConfig(target_modules=targets), meta_model, "DistilBert")


def test_linear_layers_are_named_once_in_order(meta_model):
    assert linear_layers(meta_model) == [
        "q_lin",
        "k_lin",
        "v_lin",
        "out_lin",
        "lin1",
        "lin2",
        "pre_classifier",
        "classifier",
    ]


def test_a_conv1d_of_gpt2_counts_as_linear():
    backbone = Backbone(config={"model_type": "gpt2", **tiny.CONFIGS["gpt2"]})
    model = backbone.meta_model(AutoModelForSequenceClassification, backbone.read_config())
    assert linear_layers(model) == ["c_attn", "c_proj", "c_fc", "score"]


@pytest.mark.parametrize(
    "targets",
    [
        ["q_lin", "v_lin"],
        ["attention.q_lin"],
        "all-linear",
        r".*\.(q|v)_lin",
        ["distilbert.transformer.layer.0.attention.q_lin"],
        None,
    ],
    ids=str,
)
def test_targets_that_match_pass(targets, meta_model):
    check(targets, meta_model)


def test_an_adapter_without_targets_passes(meta_model):
    check_targets(PrefixTuningConfig(num_virtual_tokens=2), meta_model, "DistilBert")


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_lin", "v_linn"], "'v_linn' matches no module of DistilBert; did you mean v_lin"),
        (["query", "value"], "'query', 'value' matches no module"),
        (["in"], "'in' matches no module"),
        (r".*query", r"'\.\*query' matches no module"),
    ],
    ids=str,
)
def test_each_target_must_match_by_itself(targets, message, meta_model):
    with pytest.raises(AdapterError, match=message):
        check(targets, meta_model)


def test_the_message_lists_the_linear_layers(meta_model):
    with pytest.raises(AdapterError, match="its linear layers are q_lin, k_lin, v_lin, out_lin, lin1, lin2"):
        check(["zzz"], meta_model)
