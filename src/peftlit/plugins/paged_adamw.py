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

    Tensors under 4,096 elements keep 32-bit state, as bitsandbytes decides; embeddings do too, because their rare rows
    suffer most from 8 bits. State pages out to host memory on CUDA; elsewhere it stays where it is, and that is logged
    once.

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
        self._in_32_bits: set[int] = set()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*[Pp]aged.*")
            super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        if not torch.cuda.is_available():
            log.info("PagedAdamW8bit: state is not paged on this device; it is 8-bit all the same")

    def keep_embeddings_in_32_bits(self, model: nn.Module) -> None:
        """Give the weights of embedding layers 32-bit state.

        bitsandbytes' own way is a list for the whole process, which would reach other optimizers too.
        """
        self._in_32_bits = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}

    def get_config(self, gindex: int, pindex: int, group: dict[str, Any]) -> dict[str, Any]:
        """Return how bitsandbytes stores the state of one parameter."""
        config: dict[str, Any] = super().get_config(gindex, pindex, group)
        if id(self.param_groups[gindex]["params"][pindex]) in self._in_32_bits:
            config["optim_bits"] = 32
        return config

    def step(self, closure: Any = None) -> Any:
        """Make one optimizer step."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*[Pp]aged.*")
            return super().step(closure)
