"""The page in docs/ that says which promise holds for which row of the table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import product
from pathlib import Path

import pytest

from peftlit.errors import PeftlitError, TrainabilityError
from tests.modules.cases import CASES, Case

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
PROMISES = ["P1", "P2", "P3", "P10"]
LIBRARIES = ["bitsandbytes", "peft", "torch", "transformers"]
VERSIONS = "Versions that the table was last written with: "

NAMES = {
    "bert": "BERT", "distilbert": "DistilBERT", "roberta": "RoBERTa", "modernbert": "ModernBERT",
    "deberta-v3": "DeBERTa-v3", "gpt2": "GPT-2", "llama": "Llama", "qwen3": "Qwen3",
    "custom-code": "own code, fused projections",
    "lora": "LoRA", "dora": "DoRA", "hira": "HiRA", "ia3": "IA3", "none": "none (head only)",
    "full": "full fine-tuning",
    None: "plain", "nf4-double": "NF4", "int8": "int8",
}  # fmt: skip

HEADER = """# Families

Small random models of every family are trained on a CPU with every adapter; quantizations take turns. **P1**: new heads
train in float32, are saved, and are neither quantized nor adapted. **P2**: trainable weights have finite gradients and
move, frozen ones do not, with and without gradient checkpointing. **P3**: dropout is on in training, also after a
validation. **P10**: logits depend neither on the other rows of a batch nor on the padding side; left padding is refused
for bidirectional attention. ✓ = kept, `refused` = refused in one line before training, ✗ = broken. Written by
`pytest tests/contracts`.
"""

KEYS = list(product(PROMISES, map(str, CASES)))
"""Promise and row of each cell of the table."""

Cells = dict[tuple[str, str], list[str]]
"""What came of each row's test of each promise; one that ended before its judgement has nothing."""


@contextmanager
def judged(cell: list[str], reason: str | None) -> Iterator[None]:
    """Note in the cell what comes of what is run: it passes, or, given a reason, is refused for it before training."""
    cell.append("✗")
    if reason is None:
        yield
        cell[-1] = "✓"
    else:
        with pytest.raises(PeftlitError, match=re.escape(reason)) as caught:
            yield
        assert not isinstance(caught.value, TrainabilityError), "it had begun to train"
        assert "\n" not in str(caught.value)
        cell[-1] = f"refused: {reason}"


def name_of(case: Case) -> tuple[str, str, str]:
    """Family, adapter and quantization, as the page calls them."""
    return NAMES[case.family], NAMES[case.adapter], NAMES[case.quantization]


def page(outcomes: Cells, versions: dict[str, str]) -> str:
    """The whole page."""
    columns = ["family", "adapter", "quantization", *PROMISES]
    rows = [columns, ["---"] * len(columns)]
    for case in CASES:
        cells = [outcomes[promise, str(case)] for promise in PROMISES]
        rows.append([*name_of(case), *("; ".join(dict.fromkeys(cell)) or "✗" for cell in cells)])
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return f"{HEADER}\n{VERSIONS}{', '.join(f'{k} {v}' for k, v in versions.items())}.\n\n{table}"


def write(file: Path, outcomes: Cells) -> None:
    """Write the page after a run over the whole table; a page that differs in nothing but versions stays."""
    text = page(outcomes, {name: version(name).split("+")[0] for name in LIBRARIES})
    if not file.exists() or _without_versions(file.read_text(encoding="utf-8")) != _without_versions(text):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")


def _without_versions(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith(VERSIONS)]
