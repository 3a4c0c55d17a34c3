"""Train and measure the cases of P21, alone or with a second process, and write down what came of it.

A name is that of a case, or of a guard that is taken away from one.
"""

import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torchmetrics import Metric

from peftlit.adapters import FullFineTuning
from peftlit.backbone import Backbone
from peftlit.batch import DataSpec
from peftlit.cli import console
from peftlit.data import SST2, sampler
from peftlit.data.sampler import LengthGroupedSampler
from peftlit.modules import SequenceClassification
from peftlit.modules.accumulation import AccumulationWindow
from peftlit.modules.heads import PooledHead
from peftlit.modules.optim import LinearWarmup
from peftlit.plugins import FiniteGuard, TrainabilityGuard
from peftlit.run.predictions import Predictions
from tests.modules.cases import LABELS, NF4, make_trainer, tokenizer
from tests.modules.language_cases import NO_DROPOUT

GLOBAL_BATCH = 8


@dataclass(frozen=True)
class Case:
    """What is trained, without dropout, over how many rows."""

    backbone: dict[str, Any] = field(default_factory=dict)
    adapter: Any = field(default_factory=lambda: LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value"]))
    head: Callable[[], Any] = lambda: None
    optimizer: Any = partial(torch.optim.AdamW, lr=5e-3)
    accumulate: int = 1
    rows: int = 40


SHORT = 4 * GLOBAL_BATCH + 3
"""Rows whose last batch is short, and not the same on both ranks."""

FAST = ("nf4, checkpointing, accumulation, short last batch", "own head, checkpointing", "full")
CASES = {
    "plain": Case(),
    "last batch of one row, accumulation": Case(rows=4 * GLOBAL_BATCH + 1, accumulate=2),
    "nf4, checkpointing, accumulation, short last batch": Case(
        {"quantization": NF4, "compute_dtype": "float32", "gradient_checkpointing": True}, accumulate=2, rows=SHORT
    ),
    "own head, checkpointing": Case(
        {"gradient_checkpointing": True}, head=lambda: PooledHead(pooling="mean", hidden_sizes=[16], dropout=0.0)
    ),
    "head alone, short last batch": Case(adapter=None, rows=SHORT),
    # some gradients are zero but for rounding, and AdamW would make whole steps of them
    "full": Case(adapter=FullFineTuning(), optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9)),
}


def _count_own_rows(self: AccumulationWindow, parameters: Any, trainer: Any) -> torch.Tensor:
    total, weight = self._sums.float()
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(trainer.accumulate_grad_batches * self.loss_scale / weight)
    self._sums = None
    return total / weight


def _deal_every_row_to_every_rank(self: LengthGroupedSampler) -> Any:
    return (rows.tolist() for rows in self._global_batches())


def _gather_own(parts: list[Any], own: Any) -> None:
    parts[:] = [own, []]


BREAKERS: dict[str, tuple[str, Any, str, Any]] = {
    "each rank counts its own rows": (
        "head alone, short last batch", AccumulationWindow, "normalize_gradients", _count_own_rows),
    "the last batch is filled up for the ranks": ("last batch of one row, accumulation", sampler, "_MIN_LAST_BATCH", 0),
    "every row to every rank": ("plain", LengthGroupedSampler, "__iter__", _deal_every_row_to_every_rank),
    "each rank measures its own rows": ("plain", Metric, "_sync_dist", lambda *_, **__: None),
    "each rank writes its own predictions": ("plain", torch.distributed, "all_gather_object", _gather_own),
}  # fmt: skip
"""Guards to take away: in which case, where, and what stands there instead."""


def train(name: str, out: Path, folder: Path, data_dir: Path, ranks: int) -> None:
    """Train a case and test it; write weights, numbers and predictions to ``out``, under the name and this rank."""
    case_name, *broken = BREAKERS.get(name, (name,))
    case = CASES[case_name]
    torch.manual_seed(0)
    module = SequenceClassification(
        Backbone(str(folder), config_overrides=NO_DROPOUT["bert"], **case.backbone),
        case.adapter,
        head=case.head(),
        data=DataSpec(label_names=LABELS, pad_token_id=tokenizer(folder).pad_token_id),
        optimizer=case.optimizer,
        scheduler=LinearWarmup(num_warmup_steps=1),
    )
    data = SST2(
        data_dir=str(data_dir), tokenizer=str(folder), max_length=32, batch_size=GLOBAL_BATCH // ranks,
        eval_batch_size=GLOBAL_BATCH // ranks, max_train_samples=case.rows, seed=1,
    )  # fmt: skip
    rank = int(os.environ.get("LOCAL_RANK", 0)) if ranks > 1 else 0
    file = f"{out}/{name}.{rank}"
    callbacks = [FiniteGuard(), TrainabilityGuard(), Predictions(Path(f"{file}.csv"), module.problem)]
    trainer = make_trainer(
        -1, *callbacks, max_epochs=2, devices=ranks, accumulate_grad_batches=case.accumulate,
        use_distributed_sampler=False, log_every_n_steps=1,
    )  # fmt: skip
    with patch.object(*broken) if broken else nullcontext():
        trainer.fit(module, datamodule=data)
        numbers: dict[str, Any] = {"steps": trainer.global_step}
        numbers |= {k: float(v) for k, v in trainer.callback_metrics.items()}
        trainer.test(module, datamodule=data, verbose=False)
    numbers |= {k: float(v) for k, v in trainer.callback_metrics.items()}
    extras = module.evaluation_extras
    numbers |= {"test/rows": extras["rows"], "test/confusion_matrix": extras["confusion_matrix"]}
    Path(f"{file}.json").write_text(json.dumps(numbers))
    save_file({n: p.detach() for n, p in module.named_parameters() if p.requires_grad}, f"{file}.safetensors")


def train_all(names: list[str], out: Path, base: Path) -> None:
    """Train all of these cases in turn, on the rank that this process is."""
    console.set_up()
    for name in names:
        train(name, out, base / "bert", base, ranks=2)
