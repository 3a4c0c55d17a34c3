"""No adapter: only the newly initialized head trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import TaskType
from torch import Tensor
from transformers import PreTrainedModel

from peftlit.adapters.method import AdapterMethod


class HeadOnly(AdapterMethod):
    """Attach nothing and train the head: what ``adapter: null`` means."""

    trains_new_head_only = True

    def attach(
        self,
        model: PreTrainedModel,
        *,
        heads: list[str],
        task_type: TaskType | None,
        quantized: bool,
        excluded_modules: Sequence[str],
    ) -> PreTrainedModel:
        """Let the heads require gradients."""
        for name in heads:
            model.get_submodule(name).requires_grad_(True)
        return model

    def save(self, model: Any, folder: Path, *, base_model: str, revision: str | None) -> None:
        """Write nothing: all that trains is in :meth:`head_tensors`."""

    def load(self, model: Any, tensors: dict[str, Tensor]) -> list[str]:
        """Load nothing."""
        return []

    def head_tensors(self, model: Any, newly_initialized: Sequence[str]) -> dict[str, Tensor]:
        """Return everything that trains."""
        return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
