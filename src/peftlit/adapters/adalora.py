"""AdaLoRA (ICLR 2023, arXiv:2303.10512): ranks are taken from some layers and left to others during training."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from peftlit.adapters.method import AdapterContext
from peftlit.adapters.peft_method import PeftMethod
from peftlit.errors import AdapterError

log = logging.getLogger(__name__)


class AdaLora(PeftMethod):
    """Attach AdaLoRA, and do what peft leaves to the training loop: the penalty and the ranks."""

    def check(self, model: PreTrainedModel, context: AdapterContext) -> None:
        """Refuse also a target rank that is not below the first one.

        Raises:
            AdapterError: Saying which setting to change.
        """
        super().check(model, context)
        if self.config.target_r >= self.config.init_r:
            raise AdapterError(
                f"adapter.target_r: got {self.config.target_r} with init_r {self.config.init_r}; AdaLoRA starts with "
                "more ranks than it ends with, so set a larger init_r"
            )

    def before_training(self, num_steps: float) -> None:
        """Warn of a run that ends before the ranks have come down to ``target_r``."""
        if num_steps < self.config.total_step - self.config.tfinal:
            log.warning(
                "adapter.total_step: %d, of which the last %d (tfinal) keep the ranks, but the run has %d steps and "
                "never comes down to target_r; set total_step: %d",
                *(self.config.total_step, self.config.tfinal, num_steps, num_steps),
            )

    def penalty(self, model: nn.Module) -> Tensor | None:
        """Return the mean distance of the singular vectors from orthonormal ones, weighted as peft does."""
        tuner: Any = model.base_model
        weight = _config(tuner).orth_reg_weight
        distances = []
        for name, factor in tuner.named_parameters():
            if factor.requires_grad and ("lora_A" in name or "lora_B" in name):
                products = factor @ factor.T if "lora_A" in name else factor.T @ factor
                distances.append(torch.linalg.norm(products - torch.eye(len(products), device=products.device)))
        return weight * torch.stack(distances).mean() if distances and weight else None

    def after_optimizer_step(self, model: nn.Module, step: int) -> None:
        """Score the ranks by their gradients, and zero the least important when it is time.

        A step whose gradients are not finite scores nothing: a loss scaler has skipped it.
        """
        tuner: Any = model.base_model
        gradients = [weight.grad for weight in tuner.parameters() if weight.grad is not None]
        if gradients and bool(torch.stack([gradient.isfinite().all() for gradient in gradients]).all()):
            tuner.update_and_allocate(step)

    def state(self, model: nn.Module) -> dict[str, Any]:
        """Return the scores of the ranks, and which ranks are left."""
        tuner: Any = model.base_model
        return {
            "importance": dict(tuner.rankallocator.exp_avg_ipt),
            "uncertainty": dict(tuner.rankallocator.exp_avg_unc),
            "rank_pattern": _config(tuner).rank_pattern,
        }

    def restore_state(self, model: nn.Module, state: dict[str, Any]) -> None:
        """Take back the scores and the ranks."""
        tuner: Any = model.base_model
        weights, allocator = dict(tuner.model.named_parameters()), tuner.rankallocator
        allocator.exp_avg_ipt, allocator.exp_avg_unc = (
            {name: score.to(weights[name].device) for name, score in state[kind].items()}
            for kind in ("importance", "uncertainty")
        )
        allocator.ipt = {name: torch.zeros_like(score) for name, score in allocator.exp_avg_ipt.items()}
        _config(tuner).rank_pattern = state["rank_pattern"]

    def save(self, model: PeftModel, folder: Path, *, base_model: str, revision: str | None) -> None:
        """Save the ranks that are zero, too: 4-bit layers that are cut down to the others give another output."""
        with _all_ranks(model):
            super().save(model, folder, base_model=base_model, revision=revision)

    def trained_tensors(self, model: PeftModel) -> dict[str, Tensor]:
        """Return the adapter's tensors with all ranks, as they are saved."""
        with _all_ranks(model):
            return super().trained_tensors(model)

    def wrap(self, model: PreTrainedModel, config: PeftConfig) -> PeftModel:
        """Freeze the divisors: where peft casts them for 4-bit layers, they would begin to train, unsaved."""
        wrapped = super().wrap(model, config)
        for name, parameter in wrapped.named_parameters():
            if ".ranknum." in name:
                parameter.requires_grad_(False)
        return wrapped


@contextmanager
def _all_ranks(model: PeftModel) -> Iterator[None]:
    """Keep peft from cutting the tensors that it returns down to the ranks that are left."""
    config = _config(model.base_model)
    pattern, config.rank_pattern = config.rank_pattern, None
    try:
        yield
    finally:
        config.rank_pattern = pattern


def _config(tuner: Any) -> Any:
    return tuner.peft_config[tuner.trainable_adapter_name]
