"""Causal language modelling: each token from those before it; and classification by the likelihood of labels.

Letters: ``B`` rows in the batch, ``T`` tokens, ``V`` vocabulary, ``C`` classes, ``L`` tokens of the longest label.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from peft import TaskType
from torch import Tensor
from transformers import AutoModelForCausalLM

from peftlit.adapters import Adapter
from peftlit.backbone import Backbone
from peftlit.batch import IGNORE_INDEX, Batch, DataSpec
from peftlit.errors import BackboneError, ConfigError, DataError
from peftlit.modules.base import PeftModule
from peftlit.modules.label_scores import first_token_scores, join, sequence_scores
from peftlit.modules.losses import BinaryCrossEntropy, Loss
from peftlit.modules.metrics import Average
from peftlit.modules.optim import Schedule
from peftlit.modules.problems import PROBLEM_FILE, make_problem
from peftlit.modules.scores import ClassScores, TokenScores

LabelLoss = Literal["restricted", "completion"]
Scoring = Literal["first_token", "sequence"]


class CausalLM(PeftModule):
    """Learn to continue text, with the backbone's pretrained head, which stays frozen.

    Data with labels turns it into a classifier: each label is scored by its likelihood after the prompt that
    ``data.prompt`` builds from a row; nothing is generated or parsed.

    Args:
        backbone: The base model.
        adapter: A ``peft`` config, or ``FullFineTuning``.
        label_loss: What is learned of rows with labels: ``restricted`` = the right label's score among those of all
            labels; ``completion`` = its tokens among the whole vocabulary.
        loss: The loss over the labels' scores, ``CrossEntropy`` or ``FocalLoss``; null = the former.
        scoring: A label's score: ``first_token`` = the logit of its first token; ``sequence`` = the log-likelihood of
            all of its tokens; null = the first where it tells all labels apart, else the second.
        average: Which average ``f1``, ``precision`` and ``recall`` are: ``macro`` or ``weighted``.
        optimizer: Optimizer class and its arguments; parameters come from the model. Null = ``AdamW`` as torch has it.
        scheduler: ``LinearWarmup``, ``CosineWarmup``, ``ConstantWarmup``, or a torch scheduler class.
        data: What is known of the data; linked from it. With label names in it, the model classifies.
    """

    auto_class = AutoModelForCausalLM
    task_type = TaskType.CAUSAL_LM
    objective = "causal"
    pretrained_head = True

    def __init__(
        self,
        backbone: Backbone,
        adapter: Adapter = None,
        *,
        label_loss: LabelLoss = "restricted",
        loss: Loss | None = None,
        scoring: Scoring | None = None,
        average: Average = "macro",
        optimizer: OptimizerCallable | None = None,
        scheduler: Schedule | LRSchedulerCallable | None = None,
        data: DataSpec | None = None,
    ) -> None:
        super().__init__(backbone, adapter, optimizer=optimizer, scheduler=scheduler, data=data)
        self.label_loss, self.average = label_loss, average
        problem_type, differ = self.data.problem_type, self.data.first_tokens_differ
        if self.data.label_names is None:
            self.val_scores, self.test_scores = TokenScores(), TokenScores()
            self.curve = "perplexity"
            return
        if problem_type != "single_label_classification":
            raise ConfigError(
                f"data.problem_type: {problem_type} cannot be told by a label's likelihood; use SequenceClassification"
            )
        if scoring == "first_token" and not differ:
            begin = "may begin" if differ is None else "begin"  # data of one's own may not say
            raise ConfigError(
                f"model.scoring: two labels {begin} with the same token, so first_token cannot tell them apart; set "
                "sequence, or other data.prompt.label_words"
            )
        self.scoring: Scoring = scoring or ("first_token" if differ else "sequence")
        self.problem, self.criterion = make_problem(problem_type, self.data.label_names, loss)
        if isinstance(self.criterion, BinaryCrossEntropy):
            raise ConfigError("model.loss: BinaryCrossEntropy has one logit, labels have a score each; leave it out")
        if loss is not None and label_loss == "completion":
            raise ConfigError("model.loss: label_loss completion learns tokens and takes no other loss; leave one out")
        self.criterion.prepare(self.data.class_counts, self.data.num_rows)
        self.val_scores, self.test_scores = (ClassScores(self.problem.metrics(average, tuned=False)) for _ in range(2))

    def check(self) -> None:
        """Find what does not fit before weights load, packed rows under virtual tokens included."""
        super().check()
        if self.data.packing and self.method.virtual_tokens:
            raise ConfigError(
                f"data.packing: {self.method.name} puts its virtual tokens before the first sequence of a "
                "row alone, and the others would see it; leave packing out"
            )

    def configure_model(self, device: torch.device | None = None) -> None:
        """Build the model, and make sure that it keeps packed sequences apart.

        Raises:
            BackboneError: It does not.
        """
        super().configure_model(device)
        if self.data.packing and not self.language_head.keeps_apart:
            raise BackboneError(
                f"data.packing: {type(self.model).__name__} would let the sequences of a row see one another; leave "
                "packing out"
            )

    def records(self) -> dict[str, dict[str, Any]]:
        """Return what the model was trained for; for a classifier its labels, scoring and prompt."""
        record = {"prompt": self.data.prompt, **self.data.text_record()}
        if self.problem is None:
            return {PROBLEM_FILE: {"problem_type": "causal_language_modeling", **record}}
        return {PROBLEM_FILE: {**self.problem.record(), "scoring": self.scoring, **record}}

    def logits(self, batch: Batch) -> Tensor:
        """Return the labels' scores (B, C), or without labels the logits of every token (B, T, V), in float32."""
        if "label_ids" in batch:
            if self.scoring == "first_token":
                _refuse_labels_alike(batch)
            return self.label_scores(batch)
        assert self.model is not None
        logits: Tensor = self.model(**self.model_inputs(batch)).logits
        return logits[:, -batch["input_ids"].shape[1] :].float()  # peft puts virtual tokens in front

    def label_scores(self, batch: Batch) -> Tensor:
        """Return the score of each label after the prompt, (B, C) float32; their softmax is the labels' probability.

        Args:
            batch: Prompts, and the labels' tokens in ``label_ids`` (B, C, L).
        """
        scores = sequence_scores if self.scoring == "sequence" else first_token_scores
        return scores(self.language_head, self._prompts(batch), batch["label_ids"])

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the summed loss, its weight (tokens, or rows of a classifier), and the tokens found or the scores.

        Args:
            batch: ``labels`` are class ids (B,) beside ``label_ids``, or the tokens to predict, (B, T).
        """
        if self.problem is None:
            return self._token_loss(batch)
        if self.training and self.label_loss == "completion":
            rows = torch.arange(len(batch["labels"]), device=batch["labels"].device)
            right = batch["label_ids"][rows, batch["labels"]].unsqueeze(1)
            return self._token_loss(join(self._prompts(batch), right, pad_token_id=self.data.pad_token_id or 0))
        scores = self.label_scores(batch)
        return (*self.criterion(scores, batch["labels"]), scores)

    def _token_loss(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.language_head.hidden_states(self.model_inputs(batch))[:, :-1]
        labels = batch["labels"][:, 1:]
        asked = labels != IGNORE_INDEX
        total, right = self.language_head.loss(hidden[asked], labels[asked])
        return total, asked.sum(), right

    def _prompts(self, batch: Batch) -> dict[str, Tensor]:
        self.batch_shape = tuple(batch["input_ids"].shape)
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}


def _refuse_labels_alike(batch: Batch) -> None:
    """Raise a DataError where labels begin alike behind a text that training did not see."""
    first = batch["label_ids"][:, :, 0].sort(-1).values
    alike = (first[:, 1:] == first[:, :-1]).any(-1)
    if bool(alike.any()):
        raise DataError(
            f"row {int(batch['row'][alike][0])}: behind this text two labels begin with the same token; set "
            "model.scoring: sequence"
        )
