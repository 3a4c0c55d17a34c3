"""What a way of fine-tuning has to answer for; the rest of peftlit asks its method and never which one it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from peft import PeftModel, TaskType
from torch import Tensor, nn
from transformers import PreTrainedModel


class AdapterContext(NamedTuple):
    """What task and backbone ask of a method.

    Attributes:
        task_type: peft's name of the task, None where it has none.
        quantized: Whether the backbone is quantized.
        excluded_modules: Names of modules that must not be adapted: a pretrained head, or what the task does not use.
        heads: Names of the modules that are newly initialized and have to train.
        newly_initialized: Names of single weights that the checkpoint lacked and that have to train.
    """

    task_type: TaskType | None
    quantized: bool
    excluded_modules: Sequence[str] = ()
    heads: Sequence[str] = ()
    newly_initialized: Sequence[str] = ()


class AdapterMethod(ABC):
    """One way of fine-tuning: what it attaches to a backbone, what it does while training, and how it is saved.

    A method holds settings only, and is handed the model that it attached itself to. Hooks see optimizer steps, never
    micro-batches. Only :meth:`attach` has to be written.
    """

    trains_backbone: ClassVar[bool] = False
    """Whether the backbone's own weights train: they are loaded in float32, and the export is a whole model."""
    trains_new_head_only: ClassVar[bool] = False
    """Whether nothing trains where no part of the head is new."""
    weights_file: ClassVar[str | None] = None
    """The safetensors file of an exported folder that :meth:`load` reads; None = there is no such file."""
    virtual_tokens: int = 0
    """Positions that the method takes before every text."""
    virtual_tokens_in_row: bool = False
    """Whether virtual tokens stand in the row itself, where left padding would part them from the text."""

    @property
    def name(self) -> str:
        """What error messages call the method."""
        return type(self).__name__

    def check(self, model: PreTrainedModel, context: AdapterContext) -> None:  # noqa: B027
        """Refuse what does not fit, before weights are loaded and again before the method is attached.

        Args:
            model: The model, on the meta device or loaded.
            context: What task and backbone ask; before weights are loaded, the heads are not known.

        Raises:
            AdapterError: Saying which setting to change.
        """

    @abstractmethod
    def attach(self, model: PreTrainedModel, context: AdapterContext) -> PreTrainedModel | PeftModel:
        """Add the method's weights to the frozen model, and let them and the heads require gradients.

        Args:
            model: The frozen model with its head.
            context: What task and backbone ask.

        Returns:
            The model itself, or the peft model around it.

        Raises:
            AdapterError: The method does not work on this model.
        """

    def base_model(self, model: Any) -> PreTrainedModel:
        """Return the transformers model inside of what :meth:`attach` returned."""
        return model  # type: ignore[no-any-return]

    def num_parameters(self, model: PreTrainedModel) -> int:
        """Count the weights that a model would have with the method attached.

        Args:
            model: The model on the meta device, which may be changed.
        """
        return sum(parameter.numel() for parameter in model.parameters())

    def before_training(self, num_steps: float) -> None:  # noqa: B027
        """Warn of settings that do not suit the number of optimizer steps, which may be infinite."""

    def penalty(self, model: nn.Module) -> Tensor | None:
        """Return a scalar that is added to the loss once per optimizer step, whatever its micro-batches and ranks."""
        return None

    def after_optimizer_step(self, model: nn.Module, step: int) -> None:  # noqa: B027
        """Act on the model after an optimizer step, while its gradients are there and before anything is saved.

        Args:
            model: What :meth:`attach` returned.
            step: Number of optimizer steps made so far.
        """

    def state(self, model: nn.Module) -> dict[str, Any] | None:
        """Return what a checkpoint has to hold beside trainable weights: tensors, numbers, strings, dicts, lists."""
        return None

    def restore_state(self, model: nn.Module, state: dict[str, Any]) -> None:  # noqa: B027
        """Take back what :meth:`state` returned."""

    def save(self, model: Any, folder: Path, *, base_model: str, revision: str | None) -> None:  # noqa: B027
        """Write the trained weights and their config into an export folder.

        Args:
            model: What :meth:`attach` returned.
            folder: The folder.
            base_model: Name or path of the backbone.
            revision: The backbone's commit.
        """

    def trained_tensors(self, model: Any) -> dict[str, Tensor]:
        """Return the trained weights by the names that anyone finds them by who reloads the export."""
        return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}

    def load(self, model: Any, tensors: dict[str, Tensor]) -> list[str]:
        """Load the content of :attr:`weights_file`; return the names that are too many or missing."""
        return load_trained(model, tensors)

    def head_tensors(self, model: Any, newly_initialized: Sequence[str]) -> dict[str, Tensor]:
        """Return the trained weights of the Auto class's head that :meth:`save` does not write, by name.

        Args:
            model: What :meth:`attach` returned.
            newly_initialized: Names of the single weights that the checkpoint lacked.
        """
        base = self.base_model(model)
        return {name: base.get_parameter(name) for name in newly_initialized}


def load_trained(module: nn.Module, tensors: dict[str, Tensor]) -> list[str]:
    """Load what trains in a module; return the names that are too many or missing."""
    result = module.load_state_dict(tensors, strict=False)
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    return sorted({*result.unexpected_keys, *(trained & set(result.missing_keys))})
