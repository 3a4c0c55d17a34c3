"""Tiny random language models for the tests of the head and of label scores, with weights large enough to matter."""

from __future__ import annotations

from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    TaskType,
)
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from peftlit.adapters import AdapterContext, attach, method_of
from peftlit.backbone import Backbone
from peftlit.backbone.weights import load_weights
from tests import tiny

VOCABULARY = 40
CAUSAL = ["gpt2", "llama", "qwen3", "gemma2"]
MASKED = ["bert", "distilbert", "roberta", "modernbert", "deberta-v3"]
TARGETS = {**tiny.TARGETS, "gemma2": ["q_proj", "v_proj"]}
GEMMA2 = {**tiny.CONFIGS["qwen3"], "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 32}


def lora(family: str) -> LoraConfig:
    return LoraConfig(r=4, target_modules=TARGETS[family])


def adapter(name: str | None, family: str) -> PeftConfig | None:
    """The adapter of a name: lora, prompt (tuning), p (tuning), prefix (tuning), or none."""
    configs = {
        None: None,
        "lora": lora(family),
        "prompt": PromptTuningConfig(num_virtual_tokens=3),
        "p": PromptEncoderConfig(num_virtual_tokens=3, encoder_hidden_size=16),
        "prefix": PrefixTuningConfig(num_virtual_tokens=3),
    }
    return configs[name]


def language_model(
    family: str, adapter: PeftConfig | None = None, *, overrides: dict[str, Any] | None = None, **backbone: Any
) -> PreTrainedModel | PeftModel:
    """A frozen tiny model in evaluation mode; what its adapter trains is random, too, and not zero."""
    config = {"model_type": tiny.MODEL_TYPES.get(family, family), "vocab_size": VOCABULARY, "initializer_range": 0.1}
    config |= {"gemma2": GEMMA2, **tiny.CONFIGS}[family] | {"pad_token_id": 0} | (overrides or {})
    recipe = Backbone(config=config, **backbone)
    causal = family in CAUSAL
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model, *_ = load_weights(
            recipe,
            AutoModelForCausalLM if causal else AutoModelForMaskedLM,
            recipe.read_config(),
            mixed_precision=False,
            full=False,
            device=torch.device("cpu"),
        )
        for name, parameter in model.named_parameters():
            if name.endswith("bias") and parameter.is_floating_point():
                parameter.data.normal_(std=0.1)
        task_type = TaskType.CAUSAL_LM if causal else TaskType.FEATURE_EXTRACTION
        model = attach(model, method_of(adapter), AdapterContext(task_type, recipe.quantization is not None))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(std=0.3)
    return model.eval()


def token_rows(lengths: list[int], side: str = "right") -> dict[str, Tensor]:
    """Rows of random tokens, padded on a side with tokens that are no zeros."""
    chance = torch.Generator().manual_seed(3)
    ids = torch.randint(1, VOCABULARY, (len(lengths), max(lengths)), generator=chance)
    mask = torch.zeros_like(ids)
    for row, length in zip(mask, lengths, strict=True):
        row[-length:] = 1
    return {"input_ids": ids, "attention_mask": mask if side == "left" else mask.flip(1)}


def assert_gradients_are_alike(ours: Tensor, theirs: Tensor, model: torch.nn.Module, tolerance: float) -> None:
    """Compare the gradients that two numbers give what trains."""
    trained = [p for p in model.parameters() if p.requires_grad]
    wanted = torch.autograd.grad(theirs, trained, retain_graph=True)
    for mine, plain in zip(torch.autograd.grad(ours, trained), wanted, strict=True):
        assert (mine - plain).norm() < tolerance * plain.norm()
