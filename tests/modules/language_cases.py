"""Tiny language models as modules, and batches of toy rows for each thing that they learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Trainer
from peft import LoraConfig
from torch.utils.data import DataLoader

from peftlit.backbone import Backbone
from peftlit.batch import IGNORE_INDEX, Batch, DataSpec
from peftlit.data.collate import PromptCollator, TokenLabelCollator
from peftlit.data.label_prompts import LabelPrompts
from peftlit.data.masking import Masking, MaskingCollator
from peftlit.data.prompt import Prompt
from peftlit.modules import CausalLM, MaskedLM
from tests import tiny
from tests.conftest import toy_rows
from tests.modules.cases import LABELS, make_trainer, tokenizer

Kind = Literal["text", "labels", "masked"]
"""What is learned: to continue texts, to tell labels, to find hidden tokens."""

TEMPLATE = "{text}\nit was"
ONE_TOKEN = [" bad", " good"]
TWO_TOKENS = [" very bad", " very good ."]
"""Words for the two labels; these begin alike, and one is longer."""

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ 'we ' if m.role == 'user' else 'they ' }}{{ m.content }}"
    "{{ eos_token if m.role == 'assistant' else ' !' }} {% endfor %}{% if add_generation_prompt %}they {% endif %}"
)
"""A conversation in words that the tiny vocabulary has."""

NO_DROPOUT = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "gpt2": {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
}


def lora(family: str, **changes: Any) -> LoraConfig:
    """LoRA on the layers of a family."""
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": tiny.TARGETS[family], **changes})


def make_language_module(
    kind: Kind,
    folder: Path,
    adapter: Any,
    *,
    backbone: dict[str, Any] | None = None,
    words: Sequence[str] = ONE_TOKEN,
    data: dict[str, Any] | None = None,
    **arguments: Any,
) -> Any:
    """A module; nothing is loaded yet, and what will be drawn is always the same."""
    torch.manual_seed(0)
    arguments = {"optimizer": lambda groups: torch.optim.AdamW(groups, lr=1e-2), **arguments}
    facts: dict[str, Any] = {"pad_token_id": tokenizer(folder).pad_token_id, **(data or {})}
    base = Backbone(str(folder), **(backbone or {}))
    if kind == "masked":
        return MaskedLM(base, adapter, data=DataSpec(**facts), **arguments)
    if kind == "text":
        return CausalLM(base, adapter, data=DataSpec(**{"prompt": {"chat": False}, **facts}), **arguments)
    prompts = label_prompts(folder, words)
    found = prompts.encode([row["text"] for row in toy_rows(4)], "toy", range(1, 5))
    differ = all(len({ids[0] for ids in one.label_ids}) == len(one.label_ids) for one in found)
    record = {**prompts.prompt.settings(), "label_words": prompts.words, "chat": False, "chat_template": None}
    labels = {"problem_type": "single_label_classification", "label_names": LABELS}
    facts = {**labels, "first_tokens_differ": differ, "prompt": record, **facts}
    return CausalLM(base, adapter, data=DataSpec(**facts), **arguments)


def label_prompts(folder: Path, words: Sequence[str] = ONE_TOKEN) -> LabelPrompts:
    """What puts toy rows to a model."""
    return LabelPrompts(Prompt(TEMPLATE, label_words=list(words)), tokenizer(folder), LABELS, 64)


def language_batch(
    kind: Kind,
    folder: Path,
    rows: Sequence[dict[str, Any]],
    first_row: int = 1,
    *,
    side: str | None = None,
    words: Sequence[str] = ONE_TOKEN,
) -> Batch:
    """One padded batch of rows with ``text`` and ``label``; what is hidden of a row depends on its number alone."""
    tok, texts = tokenizer(folder, side), [row["text"] for row in rows]
    numbers = list(range(first_row, first_row + len(rows)))
    if kind == "labels":
        found = label_prompts(folder, words).encode(texts, "toy", numbers)
        columns = {"label": [row["label"] for row in rows], "row": numbers}
        columns |= {name: [getattr(one, name) for one in found] for name in ("input_ids", "label_ids")}
        return PromptCollator(tok)(columns)
    ids = tok(texts)["input_ids"]
    if kind == "masked":
        pieces = [[-1, *range(len(row) - 2), -1] for row in ids]
        columns = {"input_ids": ids, "word_ids": pieces, "row": numbers, "block": [0] * len(ids)}
        return MaskingCollator(tok, Masking(0.3), seed=7)(columns)
    ids = [[*row, tok.eos_token_id] for row in ids]
    labels = [[IGNORE_INDEX, *row[1:]] for row in ids]
    return TokenLabelCollator(tok)({"input_ids": ids, "labels": labels, "row": numbers})


def language_batches(kind: Kind, folder: Path, sizes: Sequence[int], **options: Any) -> list[Batch]:
    """Toy rows in batches of these sizes."""
    rows, batches, start = toy_rows(sum(sizes)), [], 0
    for size in sizes:
        batches.append(language_batch(kind, folder, rows[start : start + size], start + 1, **options))
        start += size
    return batches


def fit_language(
    module: Any,
    kind: Kind,
    folder: Path,
    steps: int,
    *callbacks: Any,
    batch_options: dict[str, Any] | None = None,
    **arguments: Any,
) -> Trainer:
    """Validate, train on ``steps`` batches, validate."""
    trainer = make_trainer(steps, *callbacks, **arguments)
    train = language_batches(kind, folder, [4] * steps, **(batch_options or {}))
    validation = language_batches(kind, folder, [4], **(batch_options or {}))
    trainer.fit(module, DataLoader(train, batch_size=None), DataLoader(validation, batch_size=None))
    return trainer


def shake(module: Any, scale: float = 0.1) -> Any:
    """Build the module, and move what trains far from where it starts."""
    module.configure_model()
    with torch.no_grad():
        chance = torch.Generator().manual_seed(5)
        for parameter in module.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=chance) * scale
                parameter.add_(noise.to(parameter.device))
    return module.eval()
