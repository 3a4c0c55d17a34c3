"""Full fine-tuning: every weight of the backbone trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from peftlit.adapters.method import AdapterContext, AdapterMethod
from peftlit.errors import AdapterError

MODEL_FILE = "model.safetensors"


class FullFineTuning(AdapterMethod):
    """Train all weights and attach nothing. Refused on a quantized backbone, whose weights cannot move."""

    trains_backbone = True
    weights_file = MODEL_FILE

    def check(self, model: PreTrainedModel, context: AdapterContext) -> None:
        """Refuse a quantized backbone.

        Raises:
            AdapterError: It is quantized.
        """
        if context.quantized:
            raise AdapterError(
                "adapter: FullFineTuning cannot train quantized weights; set backbone.quantization: null, or use a "
                "peft adapter such as peft.LoraConfig"
            )

    def attach(self, model: PreTrainedModel, context: AdapterContext) -> PreTrainedModel:
        """Let all weights require gradients."""
        model.requires_grad_(True)
        return model

    def save(self, model: PreTrainedModel, folder: Path, *, base_model: str, revision: str | None) -> None:
        """Write an ordinary transformers folder."""
        model.save_pretrained(folder)

    def trained_tensors(self, model: Any) -> dict[str, Tensor]:
        """Return nothing: a model that lacks a weight does not load, and comparing gigabytes says no more."""
        return {}

    def head_tensors(self, model: Any, newly_initialized: Sequence[str]) -> dict[str, Tensor]:
        """Return nothing: the model is saved as a whole."""
        return {}
