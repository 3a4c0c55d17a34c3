"""The short runs that faults are tried on, and what must be equal at their ends."""

from __future__ import annotations

import copy
import csv
import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from tests import device, tiny
from tests.conftest import toy_rows

BEST = {"class_path": "ModelCheckpoint", "init_args": {"monitor": "val/loss", "mode": "min"}}
EVERY_STEP = {"class_path": "ModelCheckpoint", "init_args": {"every_n_train_steps": 1}}
STOPPING = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "patience": 1}}
NF4 = {"quantization": "nf4-double"}
EIGHT_BIT = {"class_path": "peftlit.plugins.PagedAdamW8bit", "init_args": {"lr": 2e-3}}

KINDS: dict[str, dict[str, Any]] = {
    "float32, best and every step kept, early stopping": {
        "trainer": {"precision": "32-true", "callbacks": [BEST, EVERY_STEP, STOPPING], "max_epochs": 4},
    },
    "bf16, NF4, 8-bit AdamW, 2 workers": {
        "trainer": {"precision": "bf16-mixed", "callbacks": [BEST, EVERY_STEP]},
        "backbone": NF4, "optimizer": EIGHT_BIT, "workers": 2,
    },
    "bf16, validation twice an epoch": {
        "trainer": {"precision": "bf16-mixed", "val_check_interval": 0.5, "callbacks": [BEST]},
    },
    "float32, Lightning's own checkpoint after each epoch": {"trainer": {"precision": "32-true", "max_epochs": 4}},
    "float32, plateau schedule, growing windows": {
        "trainer": {
            "precision": "32-true",
            "accumulate_grad_batches": 1,
            "callbacks": [
                {"class_path": "GradientAccumulationScheduler", "init_args": {"scheduling": {0: 1, 1: 2}}},
                {"class_path": "ModelCheckpoint", "init_args": {"every_n_train_steps": 4, "save_last": True}},
            ],
        },
        "scheduler": {
            "class_path": "lightning.pytorch.cli.ReduceLROnPlateau",
            "init_args": {"monitor": "val/loss", "patience": 0, "threshold": 1.0, "factor": 0.5},
        },
    },
}  # fmt: skip


def write_base(folder: Path) -> None:
    """Write the tiny model and the data that all runs share."""
    (folder / "bert").mkdir(parents=True)
    tiny.write_model(folder / "bert", "bert")
    rows = toy_rows(150)
    for name, part in (("train", rows[:96]), ("validation", rows[96:120]), ("test", rows[120:])):
        text = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def settings(base: Path, kind: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a run: two epochs, windows of two batches, an adapter that 8-bit states are kept for."""
    lora = {"r": 32, "lora_alpha": 32, "lora_dropout": 0.1, "target_modules": ["query", "value"]}
    return {
        "model": {
            "class_path": kind.get("task", "SequenceClassification"),
            "init_args": {
                "backbone": {"name_or_path": str(base / "bert"), **kind.get("backbone", {})},
                "adapter": kind.get("adapter", {"class_path": "peft.LoraConfig", "init_args": lora}),
                "optimizer": kind.get("optimizer", {"class_path": "torch.optim.AdamW", "init_args": {"lr": 2e-3}}),
                "scheduler": kind.get("scheduler", {"class_path": "LinearWarmup", "init_args": {"warmup_ratio": 0.1}}),
            },
        },
        "data": _rows(base, kind),
        "trainer": {
            "max_epochs": 2,
            "accelerator": device.current,
            "accumulate_grad_batches": 2,
            "log_every_n_steps": 1,
            **copy.deepcopy(kind["trainer"]),
        },
    }


def _rows(base: Path, kind: dict[str, Any]) -> dict[str, Any]:
    """Return the data of a run: the rows with their labels, or for a masked language model the same texts without."""
    common = {"batch_size": 8, "max_length": 32, "num_workers": kind.get("workers", 0)}
    if kind.get("task") == "MaskedLM":
        files = {f"{split}_file": str(base / f"{split}.jsonl") for split in ("train", "validation", "test")}
        return {"class_path": "TextLines", "init_args": {**files, **common}}
    return {"class_path": "SST2", "init_args": {"data_dir": str(base), **common}}


def write_run(folder: Path, base: Path, kind: dict[str, Any]) -> None:
    """Write a configuration into a folder of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings(base, kind)), encoding="utf-8")


FIT = ("fit", "--config=config.yaml", "--run_dir=run")


def result(folder: Path) -> dict[str, Any]:
    """Return all of a finished run that must not depend on whether it was interrupted."""
    run = folder / "run"
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    state = json.loads((run / "adapter/trainer_state.json").read_text(encoding="utf-8"))
    predictions = []
    if (run / "predictions.csv").is_file():
        with (run / "predictions.csv").open(encoding="utf-8", newline="") as file:
            predictions = list(csv.reader(file))
    return {
        **{name: metrics[name] for name in ("step", "trainable_sha256", "adapter_sha256", "validation", "test")},
        **{name: state[name] for name in ("epoch", "global_step", "best_metric", "log_history")},
        "predictions": predictions,
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Name what differs between two results."""
    return [name for name in one if one[name] != other[name]]
