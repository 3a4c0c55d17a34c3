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


WHOLE = {
    "lm_head": {"modules_to_save": ["lm_head"]},
    "embed_tokens": {"modules_to_save": ["embed_tokens"]},
    "norm": {"modules_to_save": ["norm"]},
    "tokens": {"trainable_token_indices": [3, 4]},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
}


@pytest.mark.parametrize(
    ("tied", "quantization", "what"),
    [(False, None, name) for name in WHOLE] + [(True, "nf4", name) for name in WHOLE if name != "norm"],
)
def test_what_trains_whole_in_a_16_bit_model_reloads_exactly(tied, quantization, what, tmp_path) -> None:
    folder = tiny.write_model(tmp_path / "base", "llama", dtype="bfloat16", tie_word_embeddings=tied)
    adapter = LoraConfig(**{"r": 2, "target_modules": ["q_proj"], **WHOLE[what]})
    backbone = {"dtype": "bfloat16", "quantization": quantization}
    module, tokenizer = make_language_module("text", folder, adapter, backbone=backbone), load_tokenizer(str(folder))
    export(shake(module), tokenizer, tmp_path / "adapter", {})
    assert compare_answers(module, tokenizer, ["a good film", "bad"], tmp_path / "adapter").difference == 0


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
