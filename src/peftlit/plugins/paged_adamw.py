"""AdamW with 8-bit state in paged memory (Dettmers et al., ICLR 2022, arXiv:2110.02861; QLoRA, arXiv:2305.14314)."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import ParamsT

try:
    import bitsandbytes
except ImportError as error:
    raise ImportError(
        "PagedAdamW8bit needs bitsandbytes, which is not installed; run: pip install bitsandbytes"
    ) from error

log = logging.getLogger(__name__)


class PagedAdamW8bit(bitsandbytes.optim.PagedAdamW8bit):  # type: ignore[name-defined,misc]
    """bitsandbytes' paged 8-bit AdamW.

    Tensors under 4,096 elements keep 32-bit state, as bitsandbytes decides; embeddings do too, because their
    rare rows suffer most from 8 bits. State pages out to host memory on CUDA; elsewhere it stays where it is,
    and that is logged once.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate.
        betas: Decay rates of the two moments.
        eps: Added to the denominator.
        weight_decay: Decoupled weight decay.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*[Pp]aged.*")
            super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        if not torch.cuda.is_available():
            log.info("PagedAdamW8bit: state is not paged on this device; it is 8-bit all the same")

    def keep_embeddings_in_32_bits(self, model: nn.Module) -> None:
        """Give the weights of embedding layers 32-bit state.

        Args:
            model: The model whose parameters this optimizer holds.
        """
        manager = bitsandbytes.optim.GlobalOptimManager.get_instance()  # type: ignore[attr-defined]
        for module in model.modules():
            if isinstance(module, nn.Embedding) and module.weight.requires_grad:
                manager.register_module_override(module, "weight", {"optim_bits": 32})

    def step(self, closure: Any = None) -> Any:
        """Make one optimizer step.

        Args:
            closure: Evaluates the model again and returns the loss.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*[Pp]aged.*")
            return super().step(closure)
