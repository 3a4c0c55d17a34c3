from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from peftlit.errors import ConfigError
from peftlit.modules.heads import Head, PooledHead

HIDDEN = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
LENGTHS = [5, 2, 3]


def padded(side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The same rows with padding, full of other values, on either side."""
    hidden, mask = torch.full((3, 7, 4), 99.0), torch.zeros(3, 7, dtype=torch.int64)
    for i, length in enumerate(LENGTHS):
        part = slice(length) if side == "right" else slice(7 - length, 7)
        hidden[i, part] = HIDDEN[i, :length]
        mask[i, part] = 1
    return hidden, mask


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_pooling_sees_no_padding(pooling, side):
    pooled = PooledHead(pooling=pooling).pool(*padded(side))
    for i, length in enumerate(LENGTHS):
        rows = HIDDEN[i, :length]
        torch.testing.assert_close(pooled[i], {"cls": rows[0], "mean": rows.mean(0), "last": rows[-1]}[pooling])


def test_hidden_layers_and_dropout_are_as_asked_and_16_bits_meet_float32_weights():
    head = PooledHead(dropout=0.25, hidden_sizes=[6, 5])
    head.build(4, 2)
    kinds = [type(layer).__name__ for layer in head.layers]
    assert kinds == ["Dropout", "Linear", "GELU", "Dropout", "Linear", "GELU", "Dropout", "Linear"]
    assert [tuple(p.shape) for p in head.parameters() if p.ndim == 2] == [(6, 4), (5, 6), (2, 5)]
    assert head.layers[0].p == 0.25
    hidden, mask = padded("right")
    logits = head(hidden.bfloat16(), mask)
    assert (logits.shape, logits.dtype) == ((3, 2), torch.float32)


def test_settings_make_the_same_head_again():
    head = PooledHead(pooling="last", hidden_sizes=[3])
    assert PooledHead(**head.settings()).settings() == {"pooling": "last", "dropout": 0.1, "hidden_sizes": [3]}


def test_a_head_of_ones_own_is_a_dataclass_with_two_methods():
    @dataclass(kw_only=True, eq=False, repr=False)
    class First(Head):
        scale: float = 2.0

        def build(self, hidden_size, num_outputs):
            self.linear = torch.nn.Linear(hidden_size, num_outputs)

        def forward(self, hidden_states, attention_mask):
            return self.scale * self.linear(hidden_states[:, 0])

    head = First(scale=3.0)
    head.build(4, 2)
    assert head(HIDDEN, torch.ones(3, 5)).shape == (3, 2)
    assert head.settings() == {"scale": 3.0}


@pytest.mark.parametrize(
    ("settings", "said"), [({"dropout": 1.0}, "dropout: got 1.0"), ({"hidden_sizes": [0]}, r"hidden_sizes: got \[0\]")]
)
def test_wrong_settings_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        PooledHead(**settings)
