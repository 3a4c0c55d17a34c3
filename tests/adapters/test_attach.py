from __future__ import annotations

import pytest
import torch
from peft import (
    HiraConfig,
    IA3Config,
    LoHaConfig,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    TaskType,
    get_peft_model,
)  # fmt: skip
from transformers import AutoModelForSequenceClassification, BartConfig, BartForSequenceClassification

from peftlit.adapters import AdapterContext, FullFineTuning, attach, method_of, peft_method
from peftlit.backbone import Backbone
from peftlit.backbone.weights import load_weights
from peftlit.errors import AdapterError
from peftlit.modules.build import count_parameters
from tests import tiny

AUTO = AutoModelForSequenceClassification
DISTILBERT = {"model_type": "distilbert", **tiny.CONFIGS["distilbert"], "vocab_size": 80}
HEADS = ["pre_classifier", "classifier"]


def load(config=DISTILBERT, quantization=None):
    backbone = Backbone(config=config, quantization=quantization)
    return load_weights(
        backbone,
        AUTO,
        backbone.read_config(num_labels=2),
        mixed_precision=False,
        full=False,
        device=torch.device("cpu"),
    )[0]


def attached(adapter, quantization=None, model=None):
    context = AdapterContext(TaskType.SEQ_CLS, quantization is not None, heads=HEADS)
    return attach(model or load(quantization=quantization), method_of(adapter), context)


def test_distilbert_with_lora_r_8_trains_739586_parameters():
    backbone = Backbone(config={"model_type": "distilbert"})
    model = backbone.meta_model(AUTO, backbone.read_config(num_labels=2))
    model.requires_grad_(False)
    config = LoraConfig(r=8, target_modules=["q_lin", "v_lin"], task_type=TaskType.SEQ_CLS, modules_to_save=[*HEADS])
    by_peft = get_peft_model(
        backbone.meta_model(AUTO, backbone.read_config(num_labels=2)), config, low_cpu_mem_usage=True
    )
    with torch.device("meta"):
        ours = attached(LoraConfig(r=8, target_modules=["q_lin", "v_lin"]), model=model)
    assert count_parameters(ours)[0] == 739_586 == 147_456 + 592_130
    assert count_parameters(ours) == by_peft.get_nb_trainable_parameters()


@pytest.mark.parametrize("quantization", ["nf4", "nf4-double", "int8"])
def test_quantized_weights_count_as_the_numbers_they_stand_for(quantization):
    adapter = LoraConfig(r=4, target_modules=["q_lin"])
    assert count_parameters(attached(adapter, quantization)) == count_parameters(attached(adapter))


def test_nothing_attached_trains_the_head_alone():
    model = attached(None)
    trainable = {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    assert trainable == set(HEADS)
    assert not isinstance(model, PeftModel)


def test_full_fine_tuning_trains_everything():
    model = attached(FullFineTuning())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("quantization", ["nf4-double", "int8"])
def test_full_fine_tuning_is_refused_on_quantized_weights(quantization):
    with pytest.raises(AdapterError, match="cannot train quantized weights; set backbone.quantization: null"):
        attached(FullFineTuning(), quantization)


def test_a_target_that_matches_nothing_is_refused_though_another_matches():
    with pytest.raises(AdapterError, match="'value' matches no module .*its linear layers are q_lin"):
        attached(LoraConfig(target_modules=["q_lin", "value"]))


def test_the_users_config_is_not_changed():
    adapter = LoraConfig(target_modules=["q_lin"])
    attached(adapter)
    assert adapter.task_type is None
    assert adapter.modules_to_save is None


def test_modules_that_the_user_saves_are_saved_beside_the_heads():
    model = attached(LoraConfig(target_modules=["q_lin"], modules_to_save=["sa_layer_norm"]))
    trainable = [n for n, p in model.named_parameters() if p.requires_grad]
    assert any("sa_layer_norm" in n for n in trainable)
    assert any("pre_classifier" in n for n in trainable)


def test_another_tasks_type_is_refused():
    with pytest.raises(AdapterError, match="task_type: .*CAUSAL_LM does not belong to this task.*SEQ_CLS"):
        attached(LoraConfig(target_modules=["q_lin"], task_type="CAUSAL_LM"))
    attached(LoraConfig(target_modules=["q_lin"], task_type="SEQ_CLS"))


@pytest.mark.parametrize(
    "adapter",
    [
        LoraConfig(target_modules=["attention"]),
        LoraConfig(target_modules=["q_lin"], layers_to_transform=[9]),
        LoraConfig(target_modules=["q_lin"], r=-1),
    ],
    ids=["parent", "no such layer", "negative rank"],
)
def test_what_peft_refuses_is_our_error_in_one_line(adapter):
    with pytest.raises(AdapterError) as caught:
        attached(adapter)
    assert "\n" not in str(caught.value)


def test_dora_on_int8_is_refused_on_a_cpu_and_trains_elsewhere_or_in_4_bits():
    with pytest.raises(AdapterError, match="use_dora: peft's DoRA loses the scales of int8 weights on a CPU; set"):
        attached(LoraConfig(target_modules=["q_lin"], use_dora=True), "int8")
    attached(LoraConfig(target_modules=["q_lin"], use_dora=True), "nf4-double")


def test_an_adapter_that_answers_only_once_is_refused_with_the_models_linear_layers(monkeypatch):
    monkeypatch.setattr(peft_method, "_has_int8_on_cpu", lambda model: False)
    with pytest.raises(AdapterError, match="does not work on quantized DistilBert.*linear layers are q_lin") as caught:
        attached(LoraConfig(target_modules=["q_lin"], use_dora=True), "int8")
    assert "base_layer" not in str(caught.value)


@pytest.mark.parametrize("quantization", ["nf4-double", "int8"])
@pytest.mark.parametrize(
    "adapter",
    [
        None,
        LoraConfig(target_modules=["q_lin"]),
        HiraConfig(target_modules=["q_lin"]),
        IA3Config(target_modules=["q_lin"], feedforward_modules=[]),
    ],
    ids=["none", "LoRA", "HiRA", "IA3"],
)
def test_quantized_layers_answer_in_autocasts_dtype(adapter, quantization):
    model = attached(adapter, quantization)
    layer = next(module for name, module in model.named_modules() if name.endswith("q_lin"))
    x = torch.ones(2, tiny.HIDDEN)
    assert layer(x).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


@pytest.mark.parametrize("adapter", [LoHaConfig(target_modules=["q_lin"]), LoraConfig(target_modules="all-linear")])
def test_any_peft_config_is_taken_as_it_is(adapter):
    model = attached(adapter)
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert any("q_lin" in n for n in trainable)
    assert {p.dtype for p in trainable.values()} == {torch.float32}


def test_a_head_that_an_adapter_leaves_frozen_is_refused():
    gpt2 = {"model_type": "gpt2", **tiny.CONFIGS["gpt2"], "vocab_size": 80, "pad_token_id": 0}
    model = load(gpt2)
    try:
        method = method_of(PrefixTuningConfig(num_virtual_tokens=2))
        wrapped = attach(model, method, AdapterContext(TaskType.SEQ_CLS, quantized=False, heads=["score"]))
    except AdapterError as error:
        assert "score" in str(error)  # noqa: PT017  both outcomes are right
    else:
        assert any(p.requires_grad and "score" in n for n, p in wrapped.named_parameters())


@pytest.mark.parametrize("adapter", [FullFineTuning(), LoraConfig(target_modules=["q_proj"])], ids=["full", "lora"])
def test_classifiers_that_look_for_the_end_of_a_text_are_taken(adapter):
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    model = BartForSequenceClassification(BartConfig(vocab_size=20, max_position_embeddings=16, **sizes, **heads))
    context = AdapterContext(task_type=None, quantized=False)
    attached = attach(model, method_of(adapter), context)
    assert any(parameter.requires_grad for parameter in attached.parameters())
