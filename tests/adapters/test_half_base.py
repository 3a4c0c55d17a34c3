"""What trains in float32 inside of 16-bit weights works without autocast, and reloads as a plain reload rounds it."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig

from peftlit.adapters.half_base import rounded_as_reloaded
from peftlit.data.tokenizer import load_tokenizer
from peftlit.export.reload_check import compare_answers
from peftlit.export.write import export
from tests import tiny
from tests.modules.cases import Case, collate, make_module
from tests.modules.language_cases import make_language_module, shake


@pytest.fixture(scope="module")
def half_llama(tmp_path_factory):
    return tiny.write_model(tmp_path_factory.mktemp("half"), "llama", dtype="bfloat16", tie_word_embeddings=False)


@pytest.mark.parametrize("quantization", [None, "nf4"])
@pytest.mark.parametrize("saved", ["lm_head", "embed_tokens", "norm"])
def test_modules_that_train_whole_in_a_16_bit_model_reload_exactly(saved, quantization, half_llama, tmp_path) -> None:
    adapter = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=[saved])
    backbone = {"dtype": "bfloat16", "quantization": quantization}
    module = shake(make_language_module("text", half_llama, adapter, backbone=backbone))
    export(module, load_tokenizer(str(half_llama)), tmp_path / "adapter", {})
    found = compare_answers(module, load_tokenizer(str(half_llama)), ["a good film", "bad"], tmp_path / "adapter")
    assert found.difference == 0


def test_a_float32_head_over_16_bits_is_rounded_for_the_comparison_alone(half_llama, tmp_path) -> None:
    module = make_module(Case("llama", "lora"), half_llama, backbone={"dtype": "bfloat16"})
    module.configure_model()
    base = module.method.base_model(module.model)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    batch = collate(half_llama, [{"text": "a good film", "label": 1}])
    logits = module.evaluate_batch(batch)
    with rounded_as_reloaded(base):
        dtypes = {p.dtype for name, p in base.named_parameters() if name.startswith("score.modules_to_save")}
        assert dtypes == {torch.bfloat16}
        assert not torch.equal(module.evaluate_batch(batch), logits)
    assert torch.equal(module.evaluate_batch(batch), logits)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
