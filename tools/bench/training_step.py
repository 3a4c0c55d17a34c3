"""Time of a micro-batch in ``peftlit fit``, with all that it installs, against a plain loop over the same batches.

Run as ``python -m tools.bench.training_step [--layers 22] [--width 128] [--quantization nf4-double] ...``; a Llama of
random weights reads documents of random words. A narrow one shows what each micro-batch costs beside its arithmetic.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from lightning import Callback
from peft import LoraConfig, get_peft_model
from tests import tiny
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import peftlit
from peftlit.data import TextLines

FIRST = 24
"""Micro-batches that are not counted: until then tensors are looked at one by one, and kernels are chosen."""

LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}


def wait() -> None:
    """Wait until the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Clock(Callback):
    """Note when each micro-batch begins, the loading of it included; and write the times into a file.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.times: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the time."""
        wait()
        self.times.append(time.perf_counter())

    def on_train_end(self, *_: Any) -> None:
        """Write."""
        Path(self.path).write_text(json.dumps(self.times), encoding="utf-8")


def peftlit_times(folder: Path, options: argparse.Namespace) -> list[float]:
    """Return the ends of micro-batches in a run of peftlit."""
    run = tempfile.mkdtemp(dir=folder)
    times = Path(run, "times.json")
    settings = {
        "model": {
            "class_path": "CausalLM",
            "init_args": {
                "backbone": {"name_or_path": str(folder / "model"), "quantization": options.quantization},
                "adapter": {"class_path": "peft.LoraConfig", "init_args": LORA},
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}},
            },
        },
        "data": {"class_path": "TextLines", "init_args": data_settings(folder, options)},
        "trainer": {
            "max_epochs": 1,
            "precision": options.precision,
            "accumulate_grad_batches": options.accumulate,
            "limit_val_batches": 0,
            "logger": False,
            "callbacks": [
                {"class_path": "tools.bench.training_step.Clock", "init_args": {"path": str(times)}},
            ],
        },
    }
    peftlit.fit(settings, run_dir=Path(run, "run"))
    read: list[float] = json.loads(times.read_text(encoding="utf-8"))
    return read


def data_settings(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the data's settings, the same for both."""
    text = str(folder / "text.txt")
    shape = {"max_length": options.tokens, "batch_size": options.rows}
    return {"train_file": text, "validation_file": text, "seed": 42, **shape}


def plain_times(folder: Path, options: argparse.Namespace) -> list[float]:
    """Return the ends of micro-batches in a plain loop."""
    torch.manual_seed(42)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    quantized: dict[str, Any] = {}
    if options.quantization:
        stored = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )  # fmt: skip
        quantized = {"quantization_config": stored, "device_map": {"": device}}
    base = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32, **quantized)
    model: Any = get_peft_model(base, LoraConfig(**LORA, task_type="CAUSAL_LM")).to(device)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    data = TextLines(tokenizer=str(folder / "model"), objective="causal", **data_settings(folder, options))
    data.setup("fit")
    times = []
    for number, batch in enumerate(data.train_dataloader(), 1):
        inputs = {k: batch[k].to(device) for k in ("input_ids", "attention_mask", "labels")}
        with nullcontext() if options.precision == "32-true" else torch.autocast(device, torch.bfloat16):
            loss = model(**inputs).loss
        (loss / options.accumulate).backward()
        if number % options.accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
        wait()
        times.append(time.perf_counter())
    return times


def write_inputs(folder: Path, options: argparse.Namespace) -> None:
    """Write the model, and as many documents of one block each as micro-batches need."""
    chance = random.Random(0)
    (folder / "model").mkdir()
    tiny.write_model(
        folder / "model", "llama", num_hidden_layers=options.layers, hidden_size=options.width,
        intermediate_size=2 * options.width, max_position_embeddings=options.tokens,
    )  # fmt: skip
    words = [word for word in tiny.WORDS if word.isalpha()]
    rows = options.rows * options.batches
    lines = [" ".join(chance.choices(words, k=options.tokens - 2)) for _ in range(rows)]
    (folder / "text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Take turns, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--batches", type=int, default=120)
    parser.add_argument("--accumulate", type=int, default=4)
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"])
    parser.add_argument("--quantization", choices=["nf4-double"])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    medians: dict[str, list[float]] = {"plain loop": [], "peftlit": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, options)
        for _ in range(options.rounds):
            for who, times in (("plain loop", plain_times), ("peftlit", peftlit_times)):
                ends = times(folder, options)[FIRST:]
                medians[who].append(1000 * statistics.median(b - a for a, b in pairwise(ends)))
    for who, values in medians.items():
        print(f"{who}: {' '.join(f'{value:.1f}' for value in values)} ms a micro-batch")
    ratios = [ours / plain for ours, plain in zip(medians["peftlit"], medians["plain loop"], strict=True)]
    print(
        f"peftlit takes {statistics.median(ratios):.2f} times the plain loop's ({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
