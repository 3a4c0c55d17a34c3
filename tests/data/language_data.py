"""Short ways to write running text, conversations and tokenizers, and to look into batches of language data."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from peftlit.batch import IGNORE_INDEX, Batch
from peftlit.data import ChatFiles, TextLines
from tests import tiny
from tests.data.helpers import WHOLE, Row, write_jsonl

TEMPLATE = (
    "{% for m in messages %}{{ m.role + ' : ' + m.content + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant : ' }}{% endif %}"
)
"""A chat template in which nothing merges."""

Block = tuple[int, tuple[int, ...]]
"""A row's number, and the tokens of a block of it as they were before any was hidden."""


def documents(count: int, seed: int = 0, *, longest: int = 40) -> list[str]:
    """Running text of uneven lengths, all distinct."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(tiny.WORDS, k=chance.randint(3, longest))) + f" {i}" for i in range(count)]


def write_lines(path: Path, lines: Iterable[str]) -> str:
    """Write a text file with a line each."""
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return str(path)


def text_lines(folder: Path, lines: Iterable[str], **settings: Any) -> TextLines:
    """Write ``train.txt``, and return a module that reads its lines uncut."""
    train = write_lines(folder / "train.txt", lines)
    return TextLines(train_file=train, **{**WHOLE, "max_length": 16, "batch_size": 4, **settings})


def chat_files(folder: Path, rows: Iterable[Row], **settings: Any) -> ChatFiles:
    """Write ``train.jsonl``, and return a module that reads it uncut."""
    train = write_jsonl(folder / "train.jsonl", rows)
    return ChatFiles(
        train_file=train, **{**WHOLE, "max_length": 32, "batch_size": 4, "objective": "causal", **settings}
    )


def turns(*contents: str) -> list[dict[str, str]]:
    """A conversation of user and assistant in turn."""
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(contents)]


def write_pieces(folder: Path) -> PreTrainedTokenizerFast:
    """Write a tokenizer as BERT's, that cuts words into pieces: ``films`` is ``film``, ``##s``."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = ["##s", "##ed", "##ing", "##er", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789")]
    letters = list("bcdefghjklmnopqrstuvwxyz0123456789")
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys([*special, *tiny.WORDS, *pieces, *letters]))}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    return tokenizer


def other_tokenizer(folder: str, to: Path, **settings: str) -> str:
    """Write a copy of a tokenizer with other settings, such as its chat template."""
    shutil.copytree(folder, to)
    file = to / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **settings}))
    return str(to)


def ids(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text alone."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def learned(labels: Iterable[Iterable[int]]) -> list[int]:
    """All labels of some rows that are learned, in order."""
    return [label for row in labels for label in row if label != IGNORE_INDEX]


def on_rank(rank: int, world_size: int) -> Any:
    """Stand in for the Trainer of one process among several."""
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    limits = {f"limit_{stage}_batches": 1.0 for stage in ("val", "test")}
    return SimpleNamespace(global_rank=rank, world_size=world_size, strategy=strategy, **limits)


def masks_of(batches: Iterable[Batch]) -> dict[Block, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return what the model sees and what it is to find, by block."""
    found = {}
    for batch in batches:
        for i, row in enumerate(batch["row"].tolist()):
            kept = batch["attention_mask"][i].bool()
            seen, labels = batch["input_ids"][i][kept], batch["labels"][i][kept]
            whole = torch.where(labels == IGNORE_INDEX, seen, labels)
            found[row, tuple(whole.tolist())] = (tuple(seen.tolist()), tuple(labels.tolist()))
    return found


def epoch_of(loader: DataLoader[Any], epoch: int) -> list[Batch]:
    """Return the batches of an epoch."""
    loader.sampler.set_epoch(epoch)
    return list(loader)
