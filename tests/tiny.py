"""Tiny random models with real tokenizers, written to folders, one per backbone family."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedTokenizerFast

WORDS = [
    "the", "a", "an", "it", "is", "was", "this", "that", "and", "but", "not", "never", "very", "film", "movie",
    "book", "good", "great", "superb", "fine", "bad", "poor", "awful", "dull", "i", "we", "they", "he", "she",
    "loved", "liked", "hated", "enjoyed", "story", "plot", "acting", "cast", "ending", "slow", "fast", "funny", "sad",
    "long", "short", "works", "broke", "cheap", "sturdy", "nice", "happy", "angry", "money", "time", "again", "would",
    "buy", "return", ",", ".", "!", "?",
]  # fmt: skip
HIDDEN = 128  # the narrowest that bitsandbytes' CPU kernel for reloaded 4-bit weights takes

SMALL: dict[str, Any] = {
    "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    "max_position_embeddings": 64,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": SMALL,
    "distilbert": {"dim": HIDDEN, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "max_position_embeddings": 64},
    "roberta": {**SMALL, "max_position_embeddings": 66, "type_vocab_size": 1},
    "modernbert": SMALL,
    "deberta-v3": {  # what makes it v3: relative positions alone, in buckets, sharing the projections of attention
        **SMALL, "type_vocab_size": 0, "relative_attention": True, "position_buckets": 16,
        "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "norm_rel_ebd": "layer_norm",
        "share_att_key": True, "layer_norm_eps": 1e-7,
    },
    "gpt2": {"n_embd": HIDDEN, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "llama": {**SMALL, "num_key_value_heads": 2},
    "qwen3": {**SMALL, "num_key_value_heads": 2, "head_dim": 32},
}  # fmt: skip
CUSTOM_CODE = "custom-code"
LOADED_WITH: dict[str, dict[str, Any]] = {
    CUSTOM_CODE: {"trust_remote_code": True, "config_overrides": {"use_memory_efficient_attention": False}}
}
"""What a backbone of a family needs to be told."""
MODEL_TYPES = {"deberta-v3": "deberta-v2"}
"""What transformers calls a family, where that is not its own name."""
DECODERS = {"gpt2", "llama", "qwen3"}

TARGETS = {
    "bert": ["query", "key", "value"],
    "distilbert": ["q_lin", "v_lin"],
    "roberta": ["query", "value"],
    "modernbert": ["Wqkv"],
    "deberta-v3": ["query_proj", "value_proj"],
    "gpt2": ["c_attn"],
    "llama": ["q_proj", "v_proj"],
    "qwen3": ["q_proj", "v_proj"],
    CUSTOM_CODE: ["qkv_proj", "o_proj"],
}


def write_tokenizer(folder: Path, *, decoder: bool = False) -> PreTrainedTokenizerFast:
    """Write a word-level tokenizer; a decoder's has no padding token and puts nothing around a text."""
    special = ["[UNK]", "</s>"] if decoder else ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*special, *WORDS]))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if decoder:
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", eos_token="</s>")
    else:
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
        )  # fmt: skip
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
            mask_token="[MASK]", model_input_names=["input_ids", "attention_mask"],
        )  # fmt: skip
    tokenizer.save_pretrained(folder)
    return tokenizer


def write_model(folder: Path, family: str, *, language_head: bool = False, **overrides: Any) -> Path:
    """Write a tiny random model of a family, with its tokenizer, and return the folder.

    Decoders have their language head anyhow; an encoder's checkpoint has one if asked for.
    """
    if family == CUSTOM_CODE:
        return write_custom_code(folder, **overrides)
    decoder = family in DECODERS
    tokenizer = write_tokenizer(folder, decoder=decoder)
    entries: dict[str, Any] = {"vocab_size": len(tokenizer), **CONFIGS[family], **overrides}
    entries |= {"bos_token_id": 1, "eos_token_id": 1} if decoder else {"pad_token_id": tokenizer.pad_token_id}
    if family == "modernbert":
        entries |= {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    config = AutoConfig.for_model(MODEL_TYPES.get(family, family), **entries)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kind: Any = AutoModelForCausalLM if decoder else AutoModelForMaskedLM if language_head else AutoModel
        model = kind.from_config(config)
    if config.dtype is not None:
        model = model.to(config.dtype)
    model.save_pretrained(folder)
    return folder


AUTO_MAP = {
    "AutoConfig": "configuration.FusedConfig",
    "AutoModel": "modeling.FusedModel",
    "AutoModelForSequenceClassification": "modeling.FusedForSequenceClassification",
}


def write_custom_code(folder: Path, **overrides: Any) -> Path:
    """Write a model folder with code of its own: fused projections, and rotary buffers that no checkpoint holds."""
    for file in (Path(__file__).parent / "custom_code").glob("*.py"):
        shutil.copy(file, folder)
    tokenizer = write_tokenizer(folder)
    entries = {
        "architectures": ["FusedModel"], "auto_map": AUTO_MAP, "model_type": "fused_encoder",
        "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **SMALL, **overrides,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(entries))
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    config.use_memory_efficient_attention = False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModel.from_config(config, trust_remote_code=True)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
