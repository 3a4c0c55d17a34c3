"""Size and write time of checkpoints against plain Lightning's, saved in turn by one trainer of the same model.

Run as ``python -m tools.bench.checkpoints [MODEL ...]``; weights are random, shapes are true.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from peft import LoraConfig
from torch.utils.data import DataLoader

from peftlit.backbone import Backbone
from peftlit.batch import DataSpec
from peftlit.modules import SequenceClassification
from peftlit.plugins import AdapterCheckpointIO, AdapterPrecision, Resumption

SAVES = 5
STEPS = 4
LLAMA = {
    "model_type": "llama", "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "pad_token_id": 2,
    "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4, "max_position_embeddings": 2048,
}  # fmt: skip
MODELS: dict[str, tuple[Backbone, LoraConfig, int, int]] = {
    "DistilBERT, LoRA r 8": (
        Backbone(config={"model_type": "distilbert"}),
        LoraConfig(r=8, lora_alpha=16, target_modules=["q_lin", "v_lin"]),
        16,
        128,
    ),
    "TinyLlama's shape in NF4, LoRA r 16": (
        Backbone(config=LLAMA, quantization="nf4-double"),
        LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]),
        1,
        128,
    ),
}
"""Backbone, adapter, rows of a batch, tokens of a row."""


class Saves(Callback):
    """Note when each optimizer step ended, and save in turn after the last, while all is where it trained."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the time."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Save with each."""
        compare(self.name, trainer, pl_module, statistics.median(b - a for a, b in pairwise(self.ends)))


def size(path: Path) -> int:
    """Return the bytes of a file, or of a folder's."""
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.iterdir())


def save(trainer: Trainer, io: Any, path: Path) -> float:
    """Save with one plugin; return the seconds."""
    trainer.strategy.checkpoint_io = io
    started = time.perf_counter()
    trainer.save_checkpoint(path)
    return time.perf_counter() - started


def bench(name: str) -> None:
    """Train for some steps, and save after the last."""
    backbone, adapter, rows, tokens = MODELS[name]
    facts = DataSpec(label_names=["a", "b"], pad_token_id=2 if "Llama" in name else 0)
    module = SequenceClassification(backbone, adapter, optimizer=torch.optim.AdamW, data=facts)
    batch = {
        "input_ids": torch.randint(5, 1000, (rows, tokens)),
        "attention_mask": torch.ones(rows, tokens, dtype=torch.long),
        "labels": torch.arange(rows) % 2,
    }
    trainer = Trainer(
        max_steps=STEPS, callbacks=[Saves(name), Resumption()], logger=False, enable_checkpointing=False, devices=1,
        plugins=[AdapterPrecision("bf16-mixed"), AdapterCheckpointIO()], enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader([batch] * STEPS, batch_size=None))


def compare(name: str, trainer: Trainer, module: SequenceClassification, step: float) -> None:
    """Save a few times with each in turn, and print what came of it."""
    trainables = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
    state = sum(
        value.numel() * value.element_size()
        for states in trainer.optimizers[0].state.values()
        for value in states.values()
        if isinstance(value, torch.Tensor)
    )
    keep = SequenceClassification.on_save_checkpoint
    seconds: dict[str, list[float]] = {"peftlit": [], "Lightning, trainables only": [], "Lightning as it is": []}
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(SAVES):
            for who, times in seconds.items():
                path = Path(scratch, f"{who} {number}")
                io = AdapterCheckpointIO() if who == "peftlit" else TorchCheckpointIO()
                if who == "Lightning as it is":
                    SequenceClassification.on_save_checkpoint = lambda self, checkpoint: None  # type: ignore[method-assign]
                times.append(save(trainer, io, path))
                SequenceClassification.on_save_checkpoint = keep  # type: ignore[method-assign]
                sizes[who] = size(path)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    print(
        f"{name}: trainables {trainables:,} + optimizer {state:,} = {trainables + state:,} bytes; a step {step:.2f} s"
    )
    for who, times in seconds.items():
        median, over = statistics.median(times), sizes[who] / (trainables + state) - 1
        print(
            f"  {who}: {sizes[who]:,} bytes ({over:+.1%}), {1000 * median:.0f} ms "
            f"({1000 * min(times):.0f} to {1000 * max(times):.0f}), "
            f"{median / (100 * step + median):.2%} of the time if it saves every 100 steps"
        )


if __name__ == "__main__":
    for chosen in sys.argv[1:] or MODELS:
        bench(chosen)
