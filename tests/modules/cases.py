"""The fixed table of backbone family x adapter x quantization that the contracts run over, and what builds a run of it.

Every family and every adapter stands in it plain and in NF4, and two in int8 (which does train on the CPU); not
every family with every adapter: that would be a hundred rows. Full fine-tuning is never quantized.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from peft import HiraConfig, IA3Config, LoraConfig
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from peftlit.adapters import Adapter, FullFineTuning
from peftlit.backbone import Backbone
from peftlit.batch import Batch
from peftlit.cli import RUN_DIR_VARIABLE, PeftlitCLI
from peftlit.data.collate import PadCollator
from peftlit.data.tokenizer import load_tokenizer
from peftlit.modules import SequenceClassification
from peftlit.plugins import AdapterPrecision
from tests import tiny
from tests.conftest import toy_rows

LABELS = ["negative", "positive"]
NF4 = "nf4-double"
RED = (AssertionError, pytest.fail.Exception)
"""What a contract raises when it goes red."""

FEEDFORWARD = {"bert": "intermediate.dense", "modernbert": "Wi", "gpt2": "c_fc", "llama": "down_proj"}


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    family: str
    adapter: str
    quantization: str | None = None

    def __str__(self) -> str:
        return f"{self.family}-{self.adapter}-{self.quantization or 'plain'}"

    def peft(self, **changes: Any) -> Adapter:
        """The adapter's config, small."""
        targets = tiny.TARGETS[self.family]
        if self.adapter in ("lora", "dora"):
            entries = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "use_dora": self.adapter == "dora"}
            return LoraConfig(target_modules=targets, **{**entries, **changes})
        if self.adapter == "hira":
            return HiraConfig(target_modules=targets, **{"r": 4, "hira_dropout": 0.1, **changes})
        if self.adapter == "ia3":
            feedforward = FEEDFORWARD[self.family]
            return IA3Config(target_modules=[*targets, feedforward], feedforward_modules=[feedforward], **changes)
        return FullFineTuning() if self.adapter == "full" else None


CASES = [
    Case("bert", "full"),
    Case("distilbert", "lora"),
    Case("roberta", "hira"),
    Case("modernbert", "dora"),
    Case("gpt2", "ia3"),
    Case("llama", "none"),
    Case("bert", "ia3", NF4),
    Case("distilbert", "none", NF4),
    Case("roberta", "dora", NF4),
    Case("modernbert", "lora", NF4),
    Case("gpt2", "hira", NF4),
    Case("llama", "lora", NF4),
    Case("roberta", "lora", "int8"),
    Case("llama", "ia3", "int8"),
]

over_the_table = pytest.mark.parametrize("case", CASES, ids=str)


@lru_cache
def tokenizer(folder: Path, side: str | None = None) -> Any:
    """The folder's tokenizer, made ready as the data module does it."""
    return load_tokenizer(str(folder), padding_side=side, max_length=64)


def collate(folder: Path, rows: list[dict[str, Any]], side: str | None = None) -> Batch:
    """One padded batch of rows with ``text`` and ``label``."""
    tokens = tokenizer(folder, side)([row["text"] for row in rows])
    columns = {**tokens, "label": [row["label"] for row in rows], "row": list(range(1, len(rows) + 1))}
    return PadCollator(tokenizer(folder, side))(columns)


def loader(folder: Path, batches: int, rows: int = 4) -> DataLoader[Any]:
    """So many batches of toy rows, always the same."""
    texts = toy_rows(batches * rows)
    return DataLoader([collate(folder, texts[i * rows : (i + 1) * rows]) for i in range(batches)], batch_size=None)


def make_module(
    case: Case, folder: Path, *, adapter: Any = "of the case", backbone: dict[str, Any] | None = None, **arguments: Any
) -> SequenceClassification:
    """A module of the case; nothing is loaded yet, and the head it will get is always the same."""
    torch.manual_seed(0)
    return SequenceClassification(
        Backbone(str(folder), quantization=case.quantization, **(backbone or {})),
        case.peft() if adapter == "of the case" else adapter,
        **{
            "label_names": LABELS,
            "pad_token_id": tokenizer(folder).pad_token_id,
            "optimizer": lambda groups: torch.optim.AdamW(groups, lr=1e-2),
            **arguments,
        },
    )


def make_trainer(
    steps: int, *callbacks: Any, precision: str | AdapterPrecision = "32-true", **arguments: Any
) -> Trainer:
    """A quiet Trainer on the CPU, with our precision plugin."""
    plugin = AdapterPrecision(precision, "cpu") if isinstance(precision, str) else precision
    return Trainer(
        **{
            "accelerator": "cpu", "devices": 1, "max_steps": steps, "callbacks": list(callbacks), "plugins": [plugin],
            "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
            "enable_model_summary": False, "barebones": False, **arguments,
        }
    )  # fmt: skip


def fit(module: SequenceClassification, folder: Path, steps: int, *callbacks: Any, **arguments: Any) -> Trainer:
    """Validate, train on ``steps`` batches, validate."""
    trainer = make_trainer(steps, *callbacks, **arguments)
    trainer.fit(module, loader(folder, steps), loader(folder, 1))
    return trainer


def weights_of(module: SequenceClassification) -> dict[str, torch.Tensor]:
    """A copy of every parameter."""
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def read(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor in the safetensors files of a folder."""
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def command_line(case: Case, folder: Path, data: Path, run_dir: Path, *more: str, steps: int = 3) -> PeftlitCLI:
    """``peftlit fit`` in this process, a few steps of it, without export."""
    arguments = [
        "fit", f"--run_dir={run_dir}", "--model=SequenceClassification", f"--model.backbone.name_or_path={folder}",
        "--data=TextFiles", f"--data.train_file={data / 'train.jsonl'}",
        f"--data.validation_file={data / 'validation.jsonl'}", "--data.test_share=0", "--data.max_length=64",
        "--data.batch_size=4", f"--trainer.fast_dev_run={steps}", "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
    ]  # fmt: skip
    if case.quantization is not None:
        arguments.append(f"--model.backbone.quantization={case.quantization}")
    if case.adapter != "none":
        name = {"lora": "LoraConfig", "dora": "LoraConfig", "hira": "HiraConfig"}[case.adapter]
        targets = ",".join(tiny.TARGETS[case.family])
        arguments += [f"--model.adapter=peft.{name}", f"--model.adapter.target_modules=[{targets}]"]
        arguments += ["--model.adapter.use_dora=true"] * (case.adapter == "dora")
    try:
        return PeftlitCLI([*arguments, *more])
    finally:
        os.environ.pop(RUN_DIR_VARIABLE, None)
