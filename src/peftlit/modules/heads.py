"""Task heads of ours, for backbones whose Auto class has none, or where another one is wanted.

Letters: ``B`` rows in the batch, ``T`` tokens, ``H`` hidden size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from peftlit.errors import ConfigError

Pooling = Literal["cls", "mean", "last"]


@dataclass(kw_only=True, eq=False, repr=False)
class Head(nn.Module, ABC):
    """Computes logits from the last hidden states of a text. Your own head is a dataclass with these two methods.

    Its fields can be set in the configuration, and are saved beside the weights.
    """

    def __post_init__(self) -> None:
        """Check settings; there are no weights yet."""
        super().__init__()

    @abstractmethod
    def build(self, hidden_size: int, num_outputs: int) -> None:
        """Create the layers."""

    @abstractmethod
    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits, (B, outputs).

        Args:
            hidden_states: The backbone's last layer at the text's tokens, (B, T, H); no virtual tokens.
            attention_mask: 1 for tokens and 0 for padding, (B, T).
        """

    def settings(self) -> dict[str, Any]:
        """Return the fields with their values, as JSON."""
        return asdict(self)


@dataclass(kw_only=True, eq=False, repr=False)
class PooledHead(Head):
    """One vector per row, then dropout and linear layers.

    Args:
        pooling: ``cls`` = the first token, ``mean`` = all tokens but padding, ``last`` = the last token before padding.
        dropout: Probability of dropping a value, before every linear layer.
        hidden_sizes: Widths of hidden layers with a GELU each; none = one linear layer.
    """

    pooling: Pooling = "mean"
    dropout: float = 0.1
    hidden_sizes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"model.head.dropout: got {self.dropout}, needs a share from 0 to below 1")
        if any(size < 1 for size in self.hidden_sizes):
            raise ConfigError(f"model.head.hidden_sizes: got {self.hidden_sizes}, needs widths of 1 or more")

    def build(self, hidden_size: int, num_outputs: int) -> None:
        """Create the layers."""
        layers: list[nn.Module] = []
        width = hidden_size
        for size in self.hidden_sizes:
            layers += [nn.Dropout(self.dropout), nn.Linear(width, size), nn.GELU()]
            width = size
        self.layers = nn.Sequential(*layers, nn.Dropout(self.dropout), nn.Linear(width, num_outputs))

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits, (B, outputs)."""
        dtype = next(self.parameters()).dtype
        logits: Tensor = self.layers(self.pool(hidden_states.to(dtype), attention_mask))
        return logits

    def pool(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        """Return one vector per row, (B, H), whatever the amount and side of padding."""
        if self.pooling == "mean":
            mask = attention_mask.unsqueeze(-1).to(hidden_states.dtype)
            return (hidden_states * mask).sum(1) / mask.sum(1).clamp(min=1)
        positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        chosen = (positions * attention_mask if self.pooling == "last" else attention_mask).argmax(1)
        return hidden_states[torch.arange(len(chosen), device=chosen.device), chosen]
