"""Masked language modelling: predict the tokens that are hidden."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from transformers import AutoModelForMaskedLM

from peftlit.adapters import Adapter
from peftlit.backbone import Backbone
from peftlit.batch import IGNORE_INDEX, Batch, DataSpec
from peftlit.modules.base import PeftModule
from peftlit.modules.optim import Schedule
from peftlit.modules.problems import PROBLEM_FILE
from peftlit.modules.scores import TokenScores


class MaskedLM(PeftModule):
    """Learn to predict hidden tokens, with the backbone's pretrained head, which stays frozen.

    If the backbone's weights have no such head, its layers are new and train; an output matrix tied to the embeddings
    stays frozen with them. Loss and perplexity are over all hidden tokens of a split.

    Args:
        backbone: The base model.
        adapter: A ``peft`` config, or ``FullFineTuning``; null where only a new head is to train.
        optimizer: Optimizer class and its arguments; parameters come from the model. Null = ``AdamW`` as torch has it.
        scheduler: ``LinearWarmup``, ``CosineWarmup``, ``ConstantWarmup``, or a torch scheduler class.
        data: What is known of the data; linked from it.
    """

    auto_class = AutoModelForMaskedLM
    task_type = None  # peft has no name for it
    objective = "masked"
    pretrained_head = True
    curve = "perplexity"

    def __init__(
        self,
        backbone: Backbone,
        adapter: Adapter = None,
        *,
        optimizer: OptimizerCallable | None = None,
        scheduler: Schedule | LRSchedulerCallable | None = None,
        data: DataSpec | None = None,
    ) -> None:
        super().__init__(backbone, adapter, optimizer=optimizer, scheduler=scheduler, data=data)
        self.val_scores, self.test_scores = TokenScores(), TokenScores()

    def records(self) -> dict[str, dict[str, Any]]:
        """Return what the model was trained for."""
        return {PROBLEM_FILE: {"problem_type": "masked_language_modeling", **self.data.text_record()}}

    def logits(self, batch: Batch) -> Tensor:
        """Return the logits of every token, (B, T, V), in float32."""
        assert self.model is not None
        logits: Tensor = self.model(**self.model_inputs(batch)).logits
        return logits.float()

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the summed loss of the hidden tokens, their number, and how many were found.

        Args:
            batch: ``labels`` are the hidden tokens, ``IGNORE_INDEX`` elsewhere, (B, T).
        """
        hidden = self.language_head.hidden_states(self.model_inputs(batch))
        asked = batch["labels"] != IGNORE_INDEX
        total, right = self.language_head.loss(hidden[asked], batch["labels"][asked])
        return total, asked.sum(), right
