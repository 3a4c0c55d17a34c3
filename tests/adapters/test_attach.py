from __future__ import annotations

import pytest
import torch
from peft import HiraConfig, IA3Config, LoHaConfig, LoraConfig, PeftModel, PrefixTuningConfig, TaskType, get_peft_model
from transformers import AutoModelForSequenceClassification, BartConfig, BartForSequenceClassification

from peftlit.adapters import AdapterContext, FullFineTuning, attach, method_of, peft_method
from peftlit.backbone import Backbone
from peftlit.backbone.weights import load_weights
from peftlit.errors import AdapterError
from peftlit.modules.build import count_parameters
from tests import tiny

AUTO = AutoModelForSequenceClassification
DISTILBERT = {"model_type": "distilbert", **tiny.CONFIGS["distilbert"], "vocab_size": 80}
GPT2 = {"model_type": "gpt2", **tiny.CONFIGS["gpt2"], "vocab_size": 80, "pad_token_id": 0}
HEADS = ["pre_classifier", "classifier"]


def lora(*targets: str, **changes) -> LoraConfig:
    return LoraConfig(target_modules=[*targets] or ["q_lin"], **changes)


def load(config=DISTILBERT, quantization=None):
    backbone = Backbone(config=config, quantization=quantization)
    config, cpu = backbone.read_config(num_labels=2), torch.device("cpu")
    return load_weights(backbone, AUTO, config, mixed_precision=False, full=False, device=cpu).model


def attached(adapter, quantization=None, model=None, heads=HEADS):
    context = AdapterContext(TaskType.SEQ_CLS, quantization is not None, heads=heads)
    return attach(model or load(quantization=quantization), method_of(adapter), context)


def trained(model) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def test_distilbert_with_lora_r_8_trains_739586_parameters():
    backbone = Backbone(config={"model_type": "distilbert"})
    ours, theirs = (backbone.meta_model(AUTO, backbone.read_config(num_labels=2)) for _ in range(2))
    config = lora("q_lin", "v_lin", r=8, task_type=TaskType.SEQ_CLS, modules_to_save=[*HEADS])
    by_peft = get_peft_model(theirs, config, low_cpu_mem_usage=True)
    with torch.device("meta"):
        ours = attached(lora("q_lin", "v_lin", r=8), model=ours.requires_grad_(False))
    assert count_parameters(ours)[0] == 739_586 == 147_456 + 592_130
    assert count_parameters(ours) == by_peft.get_nb_trainable_parameters()


@pytest.mark.parametrize("quantization", ["nf4", "nf4-double", "int8"])
def test_quantized_weights_count_as_the_numbers_they_stand_for(quantization):
    assert count_parameters(attached(lora(r=4), quantization)) == count_parameters(attached(lora(r=4)))


def test_nothing_attached_trains_the_head_alone_and_full_fine_tuning_everything():
    model = attached(None)
    assert {name.split(".")[0] for name in trained(model)} == set(HEADS)
    assert not isinstance(model, PeftModel)
    assert all(p.requires_grad for p in attached(FullFineTuning()).parameters())


@pytest.mark.parametrize(
    ("adapter", "quantization", "said"),
    [
        (lora("q_lin", "value"), None, "'value' matches no module .*its linear layers are q_lin"),
        (lora(task_type="CAUSAL_LM"), None, "task_type: .*CAUSAL_LM does not belong to this task.*SEQ_CLS"),
        (lora("attention"), None, "does not work on DistilBert"),
        (lora(layers_to_transform=[9]), None, "does not work on DistilBert"),
        (lora(r=-1), None, "does not work on DistilBert"),
    ],
)
def test_what_cannot_be_attached_is_our_error_in_one_line(adapter, quantization, said):
    with pytest.raises(AdapterError, match=said) as caught:
        attached(adapter, quantization)
    assert "\n" not in str(caught.value)


def test_an_adapter_that_answers_only_once_is_refused_with_the_models_linear_layers(monkeypatch):
    monkeypatch.setattr(peft_method, "_has_int8_on_cpu", lambda model: False)
    with pytest.raises(AdapterError, match="does not work on quantized DistilBert.*linear layers are q_lin") as caught:
        attached(lora(use_dora=True), "int8")
    assert "base_layer" not in str(caught.value)


def test_the_users_config_is_not_changed_and_its_own_task_type_is_taken():
    adapter = lora()
    attached(adapter)
    assert adapter.task_type is None
    assert adapter.modules_to_save is None
    attached(lora(task_type="SEQ_CLS"))


def test_modules_that_the_user_saves_are_saved_beside_the_heads():
    names = " ".join(trained(attached(lora(modules_to_save=["sa_layer_norm"]))))
    assert "sa_layer_norm" in names
    assert "pre_classifier" in names


@pytest.mark.parametrize("quantization", ["nf4-double", "int8"])
@pytest.mark.parametrize(
    "adapter",
    [None, lora(), HiraConfig(target_modules=["q_lin"]), IA3Config(target_modules=["q_lin"], feedforward_modules=[])],
    ids=["none", "LoRA", "HiRA", "IA3"],
)
def test_quantized_layers_answer_in_autocasts_dtype(adapter, quantization):
    model, x = attached(adapter, quantization), torch.ones(2, tiny.HIDDEN)
    layer = next(module for name, module in model.named_modules() if name.endswith("q_lin"))
    assert layer(x).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("adapter", "quantization"),
    [
        (LoHaConfig(target_modules=["q_lin"]), None),
        (LoraConfig(target_modules="all-linear"), None),
        (lora(use_dora=True), "nf4-double"),
    ],
)
def test_any_peft_config_is_taken_as_it_is(adapter, quantization):
    found = trained(attached(adapter, quantization))
    assert any("q_lin" in name for name in found)
    assert {p.dtype for p in found.values()} == {torch.float32}


def test_a_head_under_virtual_tokens_trains():
    found = trained(attached(PrefixTuningConfig(num_virtual_tokens=2), model=load(GPT2), heads=["score"]))
    assert any("score" in name for name in found)


@pytest.mark.parametrize("adapter", [FullFineTuning(), lora("q_proj")], ids=["full", "lora"])
def test_classifiers_that_look_for_the_end_of_a_text_are_taken(adapter):
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    model = BartForSequenceClassification(BartConfig(vocab_size=20, max_position_embeddings=16, **sizes, **heads))
    context = AdapterContext(task_type=None, quantized=False)
    assert trained(attach(model, method_of(adapter), context))
