"""Sequence classification, one label per row, with the Auto class's own head.

Letters: ``B`` rows in the batch, ``C`` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from peft import TaskType
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification

from peftlit.adapters import Adapter
from peftlit.backbone import Backbone
from peftlit.batch import Batch
from peftlit.errors import ConfigError
from peftlit.metrics import Direction, SingleLabelMetrics
from peftlit.modules.base import PeftModule
from peftlit.optim import Schedule


class SequenceClassification(PeftModule):
    """Classify texts or text pairs.

    Args:
        backbone: The base model.
        adapter: A ``peft`` config, ``FullFineTuning``, or null to train the head alone.
        optimizer: Optimizer class and its arguments; parameters come from the model.
        scheduler: ``LinearWarmup``, ``CosineWarmup``, ``ConstantWarmup``, or a torch scheduler class.
        label_names: The classes' names in the order of their ids; linked from the data.
        num_labels: Number of classes; linked from the data.
        pad_token_id: Id of the padding token; linked from the data.
        max_length: Tokens of the longest row; linked from the data.
        padding_side: Side the tokenizer pads on; linked from the data.
    """

    auto_class = AutoModelForSequenceClassification
    task_type = TaskType.SEQ_CLS

    def __init__(
        self,
        backbone: Backbone,
        adapter: Adapter = None,
        *,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: Schedule | LRSchedulerCallable | None = None,
        label_names: Sequence[str] | None = None,
        num_labels: int | None = None,
        pad_token_id: int | None = None,
        max_length: int | None = None,
        padding_side: Literal["left", "right"] | None = None,
    ) -> None:
        super().__init__(
            backbone,
            adapter,
            optimizer=optimizer,
            scheduler=scheduler,
            pad_token_id=pad_token_id,
            max_length=max_length,
            padding_side=padding_side,
        )
        if label_names is None:
            raise ConfigError("model.label_names: the data gives no label names, so name them here")
        if num_labels not in (None, len(label_names)):
            raise ConfigError(f"model.num_labels: got {num_labels}, but there are {len(label_names)} label names")
        self.label_names = list(label_names)
        self.val_metrics = SingleLabelMetrics(self.label_names)
        self.test_metrics = SingleLabelMetrics(self.label_names)

    def config_updates(self) -> dict[str, Any]:
        """Return number and names of the labels."""
        return {
            "num_labels": len(self.label_names),
            "id2label": dict(enumerate(self.label_names)),
            "label2id": {name: i for i, name in enumerate(self.label_names)},
            "problem_type": "single_label_classification",
        }

    def metric_directions(self) -> dict[str, Direction]:
        """Name the metrics of single-label classification."""
        return self.val_metrics.directions()

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the summed cross-entropy, the number of rows, and the logits (B, C).

        Args:
            batch: ``labels`` are class ids, (B,).
        """
        assert self.model is not None
        logits = self.model(**self.model_inputs(batch)).logits.float()
        labels = batch["labels"]
        return (
            cross_entropy(logits, labels, reduction="sum"),
            torch.tensor(float(len(labels)), device=logits.device),
            logits,
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Feed a validation batch to the metrics.

        Args:
            batch: The batch.
            batch_idx: Its number.
        """
        total, weight, logits = self.loss(batch)
        self._update_loss(self.val_loss, total, weight)
        self.val_metrics.update(logits.softmax(-1), batch["labels"])

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Feed a test batch to the metrics.

        Args:
            batch: The batch.
            batch_idx: Its number.

        Returns:
            ``row`` (B,), ``label`` (B,) and ``probabilities`` (B, C), on the CPU.
        """
        total, weight, logits = self.loss(batch)
        self._update_loss(self.test_loss, total, weight)
        probabilities = logits.softmax(-1)
        self.test_metrics.update(probabilities, batch["labels"])
        return {
            "row": batch["row"].cpu(),
            "label": batch["labels"].cpu(),
            "probabilities": probabilities.cpu(),
        }

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return ``row`` (B,), ``label`` (B,) and ``probabilities`` (B, C), on the CPU.

        Args:
            batch: The batch.
            batch_idx: Its number.
        """
        _, _, logits = self.loss(batch)
        return {
            "row": batch["row"].cpu(),
            "label": batch["labels"].cpu(),
            "probabilities": logits.softmax(-1).cpu(),
        }

    def on_validation_epoch_start(self) -> None:
        """Start counting anew. Not at the end: what is made there under inference mode could not be updated later."""
        self.val_loss.reset()
        self.val_metrics.reset()

    def on_test_epoch_start(self) -> None:
        """Start counting anew."""
        self.test_loss.reset()
        self.test_metrics.reset()

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the whole validation split."""
        self._log_epoch("val")

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the whole test split."""
        self._log_epoch("test")

    def _log_epoch(self, stage: Literal["val", "test"]) -> None:
        loss = self.val_loss if stage == "val" else self.test_loss
        metrics = self.val_metrics if stage == "val" else self.test_metrics
        computed = metrics.compute()
        self.confusion_matrix = computed["confusion_matrix"].cpu().tolist()
        scalars = {"loss": float(loss.compute()), **metrics.scalars(computed)}
        self.log_dict({f"{stage}/{name}": value for name, value in scalars.items()})
