from __future__ import annotations

import pytest
from peft import LoraConfig, PrefixTuningConfig
from transformers import AutoModelForSequenceClassification

from peftlit.adapters.targets import check_targets
from peftlit.backbone import Backbone
from peftlit.backbone.architecture import linear_layers
from peftlit.errors import AdapterError
from tests import tiny


def meta_model(family: str):
    backbone = Backbone(config={"model_type": family, **tiny.CONFIGS[family]})
    return backbone.meta_model(AutoModelForSequenceClassification, backbone.read_config())


@pytest.fixture(scope="module")
def distilbert():
    return meta_model("distilbert")


def test_linear_layers_are_named_once_in_order_those_of_gpt2_too(distilbert):
    attention = ["q_lin", "k_lin", "v_lin", "out_lin"]
    assert linear_layers(distilbert) == [*attention, "lin1", "lin2", "pre_classifier", "classifier"]
    assert linear_layers(meta_model("gpt2")) == ["c_attn", "c_proj", "c_fc", "score"]


@pytest.mark.parametrize(
    "adapter",
    [
        LoraConfig(target_modules=["q_lin", "v_lin"]),
        LoraConfig(target_modules=["attention.q_lin"]),
        LoraConfig(target_modules="all-linear"),
        LoraConfig(target_modules=r".*\.(q|v)_lin"),
        LoraConfig(target_modules=["distilbert.transformer.layer.0.attention.q_lin"]),
        LoraConfig(target_modules=None),
        PrefixTuningConfig(num_virtual_tokens=2),
    ],
    ids=["two names", "a path", "all-linear", "a pattern", "one layer", "peft's own", "none"],
)
def test_targets_that_match_pass(adapter, distilbert):
    check_targets(adapter, distilbert, "DistilBert")


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["q_lin", "v_linn"], "'v_linn' matches no module of DistilBert; did you mean v_lin"),
        (["query", "value"], "'query', 'value' matches no module"),
        (["in"], "'in' matches no module"),
        (r".*query", r"'\.\*query' matches no module"),
        (["zzz"], "its linear layers are q_lin, k_lin, v_lin, out_lin, lin1, lin2"),
    ],
    ids=str,
)
def test_each_target_must_match_by_itself(targets, said, distilbert):
    with pytest.raises(AdapterError, match=said):
        check_targets(LoraConfig(target_modules=targets), distilbert, "DistilBert")
