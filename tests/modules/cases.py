"""The fixed table of backbone family x adapter x quantization that the contracts run over, and what builds a run of it.

Every family stands in it with every adapter. How the backbone is stored is dealt in turn, so that every family and
every adapter meets each storage: all of them with each other would be three times as many rows.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
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
from peftlit.batch import Batch, DataSpec
from peftlit.cli.lightning_cli import PeftlitCLI
from peftlit.cli.run_selection import RUN_DIR_VARIABLE
from peftlit.data.collate import PadCollator
from peftlit.data.tokenizer import load_tokenizer
from peftlit.modules import PeftModule, SequenceClassification
from peftlit.plugins import AdapterPrecision
from tests import device, tiny
from tests.conftest import toy_rows

LABELS = ["negative", "positive"]
NF4 = "nf4-double"
RED = (AssertionError, pytest.fail.Exception)
"""What a contract raises when it goes red."""

FEEDFORWARD = {
    "bert": "intermediate.dense", "distilbert": "lin1", "roberta": "intermediate.dense", "modernbert": "Wi",
    "deberta-v3": "intermediate.dense", "gpt2": "c_fc", "llama": "down_proj", "qwen3": "down_proj",
    tiny.CUSTOM_CODE: "down_proj",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    family: str
    adapter: str
    quantization: str | None = None

    def __str__(self) -> str:
        return f"{self.family}-{self.adapter}-{self.quantization or 'plain'}"

    @property
    def refused(self) -> str | None:
        """What peftlit says of a row that peft or bitsandbytes cannot train, None where it trains."""
        if self.adapter == "full" and self.quantization is not None:
            return "FullFineTuning cannot train quantized weights"
        if self.adapter == "dora" and self.quantization == "int8" and device.current == "cpu":
            return "peft's DoRA loses the scales of int8 weights on a CPU"
        return None

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


FAMILIES = [*tiny.CONFIGS, tiny.CUSTOM_CODE]
ADAPTERS = ["lora", "dora", "hira", "ia3", "none"]
STORAGES = [None, NF4, "int8"]


def deal() -> tuple[list[Case], list[Case]]:
    """Make the table: its rows, and those of them that a fast run takes.

    The storage moves on by one from family to family and from adapter to adapter; where it is refused, the family
    meets the adapter plain as well. Full fine-tuning is plain; quantized, one family shows the refusal. A fast run
    takes two diagonals: each family twice, each adapter in each storage.
    """
    rows, fast = [], []
    for i, family in enumerate(FAMILIES):
        dealt = [Case(family, adapter, STORAGES[(i + j) % 3]) for j, adapter in enumerate(ADAPTERS)]
        full = [Case(family, "full", storage) for storage in (STORAGES if i == 0 else STORAGES[:1])]
        for case in dealt:
            rows += [case, Case(family, case.adapter)] if case.refused else [case]
        rows += full
        fast += [dealt[i % 5], dealt[(i + 1) % 5], *(full if i == 0 else [])]
    return rows, fast


CASES, FAST = deal()


def over(cases: list[Case]) -> pytest.MarkDecorator:
    """Run a test over rows of the table; those that a fast run leaves out are slow."""
    rows = [pytest.param(case, marks=() if case in FAST else pytest.mark.slow, id=str(case)) for case in cases]
    return pytest.mark.parametrize("case", rows)


over_every_row = over(CASES)
over_the_table = over([case for case in CASES if case.refused is None])


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
    case: Case,
    folder: Path,
    *,
    adapter: Any = "of the case",
    backbone: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    **arguments: Any,
) -> SequenceClassification:
    """A module of the case; nothing is loaded yet, and the head it will get is always the same."""
    torch.manual_seed(0)
    return SequenceClassification(
        Backbone(
            str(folder),
            quantization=case.quantization,
            **{**tiny.LOADED_WITH.get(case.family, {}), **(backbone or {})},
        ),
        case.peft() if adapter == "of the case" else adapter,
        data=DataSpec(**{"label_names": LABELS, "pad_token_id": tokenizer(folder).pad_token_id, **(data or {})}),
        **{"optimizer": lambda groups: torch.optim.AdamW(groups, lr=1e-2), **arguments},
    )


def pad_left(module: PeftModule) -> None:
    """Tell a module that its batches are padded on the left."""
    module.data = replace(module.data, padding_side="left")


def make_trainer(
    steps: int, *callbacks: Any, precision: str | AdapterPrecision = "32-true", **arguments: Any
) -> Trainer:
    """A quiet Trainer with our precision plugin."""
    plugin = AdapterPrecision(precision, device.current) if isinstance(precision, str) else precision
    return Trainer(
        **{
            "accelerator": device.current, "devices": 1, "max_steps": steps, "callbacks": list(callbacks),
            "plugins": [plugin], "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
            "enable_model_summary": False, "barebones": False, **arguments,
        }
    )  # fmt: skip


def fit(module: SequenceClassification, folder: Path, steps: int, *callbacks: Any, **arguments: Any) -> Trainer:
    """Validate, train on ``steps`` batches, validate."""
    trainer = make_trainer(steps, *callbacks, **arguments)
    trainer.fit(module, loader(folder, steps), loader(folder, 1))
    return trainer


def weights_of(module: SequenceClassification) -> dict[str, torch.Tensor]:
    """A copy of every parameter, on the CPU, where training leaves the module."""
    return {name: parameter.detach().to("cpu", copy=True) for name, parameter in module.named_parameters()}


def read(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor in the safetensors files of a folder."""
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def command_line(case: Case, folder: Path, data: Path, run_dir: Path, *more: str, steps: int = 3) -> PeftlitCLI:
    """``peftlit fit`` in this process, a few steps of it, without export."""
    arguments = [
        "fit", f"--run_dir={run_dir}", "--model=SequenceClassification", f"--model.backbone.name_or_path={folder}",
        "--data=TextFiles", f"--data.train_file={data / 'train.jsonl'}",
        f"--data.validation_file={data / 'validation.jsonl'}", "--data.test_share=0", "--data.max_length=64",
        "--data.batch_size=4", f"--trainer.fast_dev_run={steps}", f"--trainer.accelerator={device.current}",
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
