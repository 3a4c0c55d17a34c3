"""Sequence classification: one label per row, any number of labels, or a number.

Letters: ``B`` rows in the batch, ``C`` classes.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from peft import TaskType
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from peftlit.adapters import Adapter
from peftlit.backbone import Backbone
from peftlit.batch import Batch, DataSpec
from peftlit.errors import ConfigError
from peftlit.modules.base import PeftModule
from peftlit.modules.heads import Head
from peftlit.modules.losses import Loss
from peftlit.modules.metrics import Average
from peftlit.modules.optim import Schedule
from peftlit.modules.problems import LABEL_MAP_FILE, PROBLEM_FILE, Problem, make_problem
from peftlit.modules.scores import ClassScores


class SequenceClassification(PeftModule):
    """Classify texts or text pairs, or predict a number for them.

    Args:
        backbone: The base model.
        adapter: A ``peft`` config, ``FullFineTuning``, or null to train the head alone.
        head: A head of our own, such as ``PooledHead``; null = the one that belongs to the Auto class.
        loss: ``CrossEntropy``, ``FocalLoss``, ``BinaryCrossEntropy`` or ``MeanSquaredError``; null = the usual one
            of the problem type. ``BinaryCrossEntropy`` tells two classes apart with one logit.
        average: Which average ``f1``, ``precision`` and ``recall`` are: ``macro``, ``weighted``, or, for several
            labels per row, ``micro``.
        optimizer: Optimizer class and its arguments; parameters come from the model. Null = ``AdamW`` as torch has it.
        scheduler: ``LinearWarmup``, ``CosineWarmup``, ``ConstantWarmup``, or a torch scheduler class.
        data: What is known of the data, its labels' names among it; linked from it.
    """

    auto_class = AutoModelForSequenceClassification
    task_type = TaskType.SEQ_CLS
    problem: Problem

    def __init__(
        self,
        backbone: Backbone,
        adapter: Adapter = None,
        *,
        head: Head | None = None,
        loss: Loss | None = None,
        average: Average = "macro",
        optimizer: OptimizerCallable | None = None,
        scheduler: Schedule | LRSchedulerCallable | None = None,
        data: DataSpec | None = None,
    ) -> None:
        super().__init__(backbone, adapter, head=head, optimizer=optimizer, scheduler=scheduler, data=data)
        if self.data.label_names is None:
            raise ConfigError(
                f"data: has no labels, and {type(self).__name__} learns them; use TextFiles, or CausalLM or MaskedLM"
            )
        asked = self.data.problem_type or "single_label_classification"
        self.problem, self.criterion = make_problem(asked, self.data.label_names, loss)
        self.criterion.prepare(self.data.class_counts, self.data.num_rows)
        self.average = average
        self.val_scores = ClassScores(self.problem.metrics(average, tuned=False))
        self.test_scores = ClassScores(self.problem.metrics(average, tuned=True))

    @property
    def num_outputs(self) -> int:
        """Number of logits for a row."""
        return len(self.problem.outputs)

    def config_updates(self) -> dict[str, Any]:
        """Return number and names of the labels, and the problem type; an own head keeps them to itself."""
        return {"num_labels": self.num_outputs, **self.problem.label_map()} if self.head is None else {}

    def records(self) -> dict[str, dict[str, Any]]:
        """Return the label map, in transformers' form, and what else the problem has to know."""
        record = {**self.problem.record(), **self.data.text_record()}
        return {LABEL_MAP_FILE: self.problem.label_map(), PROBLEM_FILE: record}

    def restore(self, records: dict[str, dict[str, Any]]) -> None:
        """Restore the thresholds."""
        self.problem.restore(records[PROBLEM_FILE])

    def logits(self, batch: Batch) -> Tensor:
        """Return the logits (B, outputs) in float32."""
        assert self.model is not None
        if self.head is not None:
            logits = self.head(self.text_states(batch), batch["attention_mask"])
        else:
            logits = self.model(**self.model_inputs(batch)).logits
        return logits.float()  # type: ignore[no-any-return]

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the summed loss, its weight, and the logits (B, outputs).

        Args:
            batch: ``labels`` are class ids (B,), sets of labels (B, C), or numbers (B,).
        """
        logits = self.logits(batch)
        return (*self.criterion(logits, batch["labels"]), logits)
