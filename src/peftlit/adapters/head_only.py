"""No adapter: only the newly initialized head trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from peftlit.adapters.method import AdapterContext, AdapterMethod


class HeadOnly(AdapterMethod):
    """Attach nothing and train the head: what ``adapter: null`` means."""

    trains_new_head_only = True

    def attach(self, model: PreTrainedModel, context: AdapterContext) -> PreTrainedModel:
        """Let the heads require gradients."""
        for name in context.heads:
            model.get_submodule(name).requires_grad_(True)
        return model

    def head_tensors(self, model: Any, newly_initialized: Sequence[str]) -> dict[str, Tensor]:
        """Return everything that trains."""
        return self.trained_tensors(model)
