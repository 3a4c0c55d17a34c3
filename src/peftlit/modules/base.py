"""What every task shares: backbone, adapter, head and optimizer, and when each is built."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from peft import PeftModel, TaskType
from torch import Tensor
from torch.optim import Optimizer
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from peftlit.adapters import Adapter, method_of
from peftlit.adapters.penalty import add_penalty
from peftlit.backbone import Backbone
from peftlit.backbone.hardware import current_device_type
from peftlit.batch import Batch, DataSpec
from peftlit.checkpoint.trainables import check_trainables, identify_backbone, keep_trainables
from peftlit.errors import ConfigError
from peftlit.modules.accumulation import LOSS_SCALE, AccumulationWindow
from peftlit.modules.build import build_model, report_parameters, trainer_of
from peftlit.modules.check import NOTHING_TRAINS, check_model
from peftlit.modules.evaluation import EvaluationModule
from peftlit.modules.heads import Head
from peftlit.modules.inference import in_evaluation, model_inputs
from peftlit.modules.language_head import LanguageHead
from peftlit.modules.metrics import Average, Direction
from peftlit.modules.optim import Schedule, parameter_groups, with_schedule

log = logging.getLogger(__name__)

METHOD_STATE = "rank_allocation"
"""Checkpoint key: the adapter method's state, if it has one; named after AdaLoRA's, which was the first."""


class PeftModule(EvaluationModule):
    """A backbone with an adapter and a head. A task adds its Auto class, its loss and its metrics.

    Nothing is loaded in the constructor: :meth:`check` compares names and shapes, and Lightning calls
    :meth:`configure_model` when the weights are wanted.

    Args:
        backbone: The base model.
        adapter: A ``peft`` config, :class:`~peftlit.adapters.FullFineTuning`, or None for the head alone.
        head: Computes logits from hidden states; None = the head that belongs to the Auto class.
        optimizer: Builds the optimizer from parameter groups; None = ``torch.optim.AdamW`` with its defaults.
        scheduler: A :class:`~peftlit.modules.optim.Schedule`, or anything that builds a torch scheduler.
        data: What is known of the data; linked from it.
    """

    curve = "f1"
    """The metric to draw beside the loss."""
    average: Average = "macro"
    """Which average ``f1`` is, where rows are classified."""
    language_head: LanguageHead
    """The pretrained head apart from its body, once the model is built."""

    def __init__(
        self,
        backbone: Backbone,
        adapter: Adapter,
        *,
        head: Head | None = None,
        optimizer: OptimizerCallable | None,
        scheduler: Schedule | LRSchedulerCallable | None,
        data: DataSpec | None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.adapter = adapter
        self.method = method_of(adapter)
        self.head = head
        if head is not None:
            self.auto_class, self.task_type = AutoModel, TaskType.FEATURE_EXTRACTION
        # not the default of the argument: the parser would hand AdamW's settings on to whatever class is named instead
        self.optimizer = optimizer or torch.optim.AdamW
        self.scheduler = scheduler
        self.data = data or DataSpec()
        self.model: PreTrainedModel | PeftModel | None = None
        self.heads: list[str] = []
        self.newly_initialized: list[str] = []
        self.batch_shape: tuple[int, ...] = ()
        self.window = AccumulationWindow()
        self.strict_loading = False  # checkpoints hold what trains; the backbone comes from its own files

    def config_updates(self) -> dict[str, Any]:
        """Return the entries of the model's config that the task sets."""
        return {}

    @abstractmethod
    def logits(self, batch: Batch) -> Tensor:
        """Return the logits of a batch in float32; its labels are not used."""

    def records(self) -> dict[str, dict[str, Any]]:
        """Return what is needed to read the logits: JSON files of the export by name."""
        return {}

    def restore(self, records: dict[str, dict[str, Any]]) -> None:
        """Restore what :meth:`records` returned."""

    @property
    def num_outputs(self) -> int:
        """Number of logits that a head of ours gives for a row."""
        raise NotImplementedError(f"{type(self).__name__} has no head of its own")

    def monitors(self) -> dict[str, Direction]:
        """Name every value that a callback may monitor, and say whether lower or higher is better."""
        scores = self.val_scores.directions()
        return {"train/loss": "min", "val/loss": "min", **{f"val/{name}": way for name, way in scores.items()}}

    def read_config(self) -> PretrainedConfig:
        """Read the model's config with the entries that the task and the tokenizer set."""
        updates = self.config_updates()
        if self.data.pad_token_id is not None:
            updates["pad_token_id"] = self.data.pad_token_id
        return self.backbone.read_config(**updates)

    def check(self) -> None:
        """Find what does not fit before weights load: architecture, targets, lengths.

        Raises:
            PeftlitError: Saying what does not fit.
        """
        check_model(self, self.read_config())

    def configure_model(self, device: torch.device | None = None) -> None:
        """Load the weights, attach the adapter, turn on training mode; a second call does nothing.

        Args:
            device: Where quantized layers are created; None = where the Trainer computes.
        """
        if self.model is not None:
            return
        trainer = trainer_of(self)
        if device is None:
            device = trainer.strategy.root_device if trainer is not None else torch.device(current_device_type())
        mixed_precision = trainer is not None and "mixed" in str(trainer.precision)
        self.model, self.heads, self.newly_initialized = build_model(
            self, self.read_config(), device, mixed_precision=mixed_precision
        )
        if self.head is not None:
            self.head.build(self.model.config.hidden_size, self.num_outputs)
        if self.pretrained_head:
            self.language_head = LanguageHead(self.model)
        if not any(parameter.requires_grad for parameter in self.parameters()):
            raise ConfigError(NOTHING_TRAINS)
        self.train()

    def on_validation_model_train(self) -> None:
        """Return to training mode after a validation, dropout in frozen layers included."""
        self.train()

    def on_fit_start(self) -> None:
        """Start in training mode, because transformers loads models in evaluation mode, and log what trains."""
        self.train()
        report_parameters(self, self.method, self.heads, self.newly_initialized)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only the parameters that train, and the state of the adapter and the accumulation window."""
        assert self.model is not None
        checkpoint[LOSS_SCALE] = self.window.state()
        keep_trainables(checkpoint, self._trainable_names(), self._backbone_identity())
        if (state := self.method.state(self.model)) is not None:
            checkpoint[METHOD_STATE] = state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that does not hold exactly what trains; restore the adapter's and the window's state."""
        assert self.model is not None
        check_trainables(checkpoint, self._trainable_names(), self._backbone_identity())
        self.window.loss_scale = checkpoint.get(LOSS_SCALE)
        if METHOD_STATE in checkpoint:
            self.method.restore_state(self.model, checkpoint[METHOD_STATE])

    def _trainable_names(self) -> set[str]:
        return {name for name, parameter in self.named_parameters() if parameter.requires_grad}

    def _backbone_identity(self) -> dict[str, Any]:
        return identify_backbone(self.backbone.location, self.backbone.revision)

    def configure_optimizers(self) -> Any:
        """Build the optimizer over trainables only, and the schedule over optimizer steps."""
        assert self.model is not None
        try:
            optimizer = self.optimizer(parameter_groups(self))
        except ValueError as error:
            raise ConfigError(f"model.optimizer: {error}") from error
        if hasattr(optimizer, "keep_embeddings_in_32_bits"):
            optimizer.keep_embeddings_in_32_bits(self.model)
        steps = self.trainer.estimated_stepping_batches
        self.method.before_training(steps)
        return with_schedule(optimizer, self.scheduler, steps)

    def model_inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Return what the model's forward takes; under left padding, positions count from the first token."""
        assert self.model is not None
        self.batch_shape = tuple(batch["input_ids"].shape)
        return model_inputs(self.model, batch, self.data.padding_side)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Add the batch to the accumulation window, and return the loss for ``backward``."""
        total, weight, _ = self.loss(batch)
        return self.window.accumulate(total, weight, self.trainer)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Normalize the gradients over the window, add those of the adapter's penalty, and log the window's mean loss.

        The gradients are unscaled and not yet clipped.
        """
        assert self.model is not None
        self.log("train/loss", self.window.normalize_gradients(self.parameters(), self.trainer))
        if all(parameter.grad is None for parameter in self.parameters()):
            return  # the step is skipped
        penalty = add_penalty(self.model, self.method)
        if penalty is not None:
            self.log("train/penalty", penalty)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Make the step, then let the method act on it before anything is saved."""
        assert self.model is not None
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.method.after_optimizer_step(self.model, self.trainer.global_step + 1)  # this step is counted later

    def evaluate_batch(self, batch: Batch) -> Tensor:
        """Return the logits of a batch in evaluation mode, on the CPU, without autocast; see :func:`in_evaluation`."""
        return in_evaluation(self, self.logits, batch)

    def text_states(self, batch: Batch) -> Tensor:
        """Return the last hidden states of the text alone in float32, (B, T, H): peft puts virtual tokens before it."""
        assert self.model is not None
        hidden: Tensor = self.model(**self.model_inputs(batch)).last_hidden_state
        return hidden[:, -batch["input_ids"].shape[1] :].float()

    def hidden_states(self, batch: Batch) -> Tensor:
        """Return :meth:`text_states` as :meth:`evaluate_batch` returns logits."""
        return in_evaluation(self, self.text_states, batch)
