"""Held-out perplexity of a language model on WikiText-2, without peftlit: plain transformers and peft.

    python tools/perplexity.py --base FOLDER [--adapter RUN/adapter] --data_dir FOLDER [--split test] ...

It shares no code with the package, so that two readings of one rule meet in one figure. The rules:

- Lines are put together into articles; one begins with `` = Title = ``. An article is a document.
- Causal: a document is its first special token, the text and the end token. A block of ``--max_length`` tokens begins
  with the last token of the block before it, so that every token but a document's first is predicted once.
- Masked: the text is cut into pieces that fit between ``cls`` and ``sep``. In each, some of the tokens are to be found;
  what is hidden follows from ``MASK_SEED/evaluation/ARTICLE/PIECE`` alone, articles counted from 1 and pieces from 0.
- Perplexity is exp(sum of the losses / number of tokens), over all tokens of the split.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, BitsAndBytesConfig

IGNORED = -100
Block = tuple[list[int], list[int]]
"""Token ids, and the token to be found at each place or ``IGNORED``."""


def base_folder(name: str) -> str:
    """Find the base that an export names: a hub id, a folder, or the model inside a Python package."""
    if not name.startswith("package:"):
        return name
    package = find_spec(name.removeprefix("package:"))
    assert package is not None, f"{name} is not installed"
    return str(next(Path((package.submodule_search_locations or [""])[0]).rglob("config.json")).parent)


def articles(file: Path) -> list[str]:
    """Read a split and put its lines together."""
    found: list[list[str]] = []
    for line in file.read_text(encoding="utf-8").split("\n"):
        text = json.loads(line)["text"].rstrip("\n") if line else ""
        if not text.strip():
            continue
        heading = text.startswith(" = ") and text.endswith(" = ") and not text.startswith(" = = ")
        if heading or not found:
            found.append([])
        found[-1].append(text)
    return ["\n".join(lines) for lines in found]


def causal_blocks(tokenizer: Any, texts: list[str], max_length: int) -> Iterator[Block]:
    """Cut documents so that every token but the first is predicted exactly once."""
    for text in texts:
        ids = tokenizer(text, verbose=False)["input_ids"]
        if ids[-1] != tokenizer.eos_token_id:
            ids = [*ids, tokenizer.eos_token_id]
        first = 0
        while first < len(ids) - 1:
            block = ids[first : first + max_length]
            yield block, [IGNORED, *block[1:]]
            first += len(block) - 1


def masked_blocks(tokenizer: Any, texts: list[str], arguments: argparse.Namespace) -> Iterator[Block]:
    """Cut documents into pieces between special tokens, and hide some of their tokens."""
    for number, text in enumerate(texts, 1):
        encoded = tokenizer(text, add_special_tokens=False, verbose=False)
        ids, words = encoded["input_ids"], encoded.word_ids()
        room = arguments.max_length - 2
        for piece, start in enumerate(range(0, len(ids), room)):
            key = f"{arguments.mask_seed}/evaluation/{number}/{piece}"
            part = slice(start, start + room)
            yield hide(tokenizer, ids[part], words[part], key, arguments)


def hide(tokenizer: Any, ids: list[int], words: list[int], key: str, arguments: argparse.Namespace) -> Block:
    """Hide tokens of one piece, as chance that is seeded with the key has it."""
    seed = int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big") >> 1
    chance = torch.Generator().manual_seed(seed)
    whole = [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]
    wanted = max(1, round(arguments.ratio * len(ids)))
    places: set[int] = set()
    if arguments.whole_words:
        pieces: dict[int, list[int]] = {}
        for i, word in enumerate(words):
            pieces.setdefault(i if word is None else word, []).append(1 + i)
        names = sorted(pieces)
        for i in torch.randperm(len(names), generator=chance).tolist():
            if not places or len(places) + len(pieces[names[i]]) <= wanted:
                places.update(pieces[names[i]])
    else:
        places = {1 + i for i in torch.randperm(len(ids), generator=chance).tolist()[:wanted]}
    draw = torch.rand(len(whole), generator=chance).tolist()
    other = torch.randint(len(tokenizer), (len(whole),), generator=chance).tolist()
    hidden = list(whole)
    for i in places:
        if draw[i] < arguments.mask_share:
            hidden[i] = tokenizer.mask_token_id
        elif draw[i] < arguments.mask_share + arguments.random_share:
            hidden[i] = other[i]
    return hidden, [token if i in places else IGNORED for i, token in enumerate(whole)]


def load(arguments: argparse.Namespace, *, masked: bool) -> Any:
    """Load the base as the adapter's folder says it was stored, then the adapter, then a new head if there is one."""
    options: dict[str, Any] = {"dtype": getattr(torch, arguments.dtype)}
    record = arguments.adapter / "quantization_config.json" if arguments.adapter else None
    if record is not None and record.is_file():
        options["quantization_config"] = BitsAndBytesConfig.from_dict(json.loads(record.read_text(encoding="utf-8")))
    kind = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    model = kind.from_pretrained(arguments.base, **options)
    head = arguments.adapter / "head.safetensors" if arguments.adapter else None
    if head is not None and head.is_file():  # the layers of the head that the base's weights lack
        odd = model.load_state_dict(load_file(head), strict=False).unexpected_keys
        if odd:
            raise SystemExit(f"{head}: {odd[0]} is no weight of {type(model).__name__}; give the base it was made for")
    if not arguments.packed_kernel:  # where there is AVX512-BF16, bitsandbytes rounds more in it than in training
        for layer in model.modules():
            if hasattr(layer, "support_avx512bf16_for_cpu"):
                layer.support_avx512bf16_for_cpu = False
    if arguments.adapter:
        model = PeftModel.from_pretrained(model, arguments.adapter)
    return model.eval()


@torch.inference_mode()
def score(model: Any, blocks: list[Block], pad: int, batch_size: int, *, masked: bool) -> tuple[float, int]:
    """Return the summed loss in float64, and the number of tokens that were to be found."""
    total, tokens = 0.0, 0
    blocks = sorted(blocks, key=lambda block: len(block[0]))
    for start in range(0, len(blocks), batch_size):
        batch = blocks[start : start + batch_size]
        longest = len(batch[-1][0])
        ids = torch.tensor([block + [pad] * (longest - len(block)) for block, _ in batch])
        mask = torch.tensor([[1] * len(block) + [0] * (longest - len(block)) for block, _ in batch])
        labels = torch.tensor([found + [IGNORED] * (longest - len(found)) for _, found in batch])
        logits = model(input_ids=ids, attention_mask=mask).logits.float()
        if not masked:
            logits, labels = logits[:, :-1], labels[:, 1:]
        asked = labels != IGNORED
        total += float(cross_entropy(logits[asked], labels[asked], reduction="none").double().sum())
        tokens += int(asked.sum())
    return total, tokens


def main() -> None:
    """Print the perplexity and what it was made of."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="folder or hub id of the base model; unset = what the adapter names")
    parser.add_argument("--adapter", type=Path, help="exported folder; unset = the base alone")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder with SPLIT.jsonl, a line per row")
    parser.add_argument("--split", default="test")
    parser.add_argument("--masked", action="store_true", help="a masked language model rather than a causal one")
    parser.add_argument("--max_length", type=int, default=128, help="tokens of a block")
    parser.add_argument("--batch_size", type=int, default=16, help="blocks per batch")
    parser.add_argument("--mask_seed", type=int, default=42)
    parser.add_argument("--ratio", type=float, default=0.15, help="share of the tokens to find")
    parser.add_argument("--whole_words", action="store_true", help="hide all pieces of a word or none")
    parser.add_argument("--mask_share", type=float, default=0.8)
    parser.add_argument("--random_share", type=float, default=0.1)
    parser.add_argument("--dtype", default="float32", help="how what is not quantized is stored")
    parser.add_argument("--packed_kernel", action="store_true", help="evaluate in bitsandbytes' packed CPU kernel")
    arguments = parser.parse_args()
    if arguments.base is None:
        if arguments.adapter is None:
            parser.error("give --base, --adapter, or both")
        record = json.loads((arguments.adapter / "adapter_config.json").read_text(encoding="utf-8"))
        arguments.base = base_folder(record["base_model_name_or_path"])
    tokenizer = AutoTokenizer.from_pretrained(arguments.adapter or arguments.base)
    texts = articles(arguments.data_dir / f"{arguments.split}.jsonl")
    if arguments.masked:
        blocks = list(masked_blocks(tokenizer, texts, arguments))
    else:
        blocks = list(causal_blocks(tokenizer, texts, arguments.max_length))
    model = load(arguments, masked=arguments.masked)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    total, tokens = score(model, blocks, pad, arguments.batch_size, masked=arguments.masked)
    print(f"{len(texts)} articles, {len(blocks)} blocks, {tokens} tokens to find")
    print(f"loss {total / tokens:#.8g}  perplexity {math.exp(total / tokens):#.8g}")


if __name__ == "__main__":
    main()
