from __future__ import annotations

import gc
import logging
import warnings
import weakref
from typing import Any

import bitsandbytes
import pytest
import torch
from torch import nn

from peftlit.plugins import PagedAdamW8bit
from tests import tiny
from tests.modules.cases import Case, fit, make_module


def step(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        output = model(torch.arange(64)) if isinstance(model[0], nn.Embedding) else model(torch.ones(2, 64))
        output.square().mean().backward()
        optimizer.step()


def linear(rows: int = 64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, rows))


def state_type(model: nn.Module, optimizer: Any, layer: int = 0) -> torch.dtype:
    state = optimizer.state[model[layer].weight]
    assert state["state1"].dtype == state["state2"].dtype
    return state["state1"].dtype


@pytest.fixture(autouse=True)
def _nothing_left_by_other_tests():
    """bitsandbytes keeps its overrides in one object for the whole process."""
    manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
    manager.initialize()
    yield
    manager.initialize()


def test_embeddings_and_tensors_under_4096_elements_keep_32_bits():
    model = nn.Sequential(nn.Embedding(64, 64), nn.Linear(64, 64, bias=False))
    optimizer = PagedAdamW8bit(model.parameters())
    optimizer.keep_embeddings_in_32_bits(model)
    step(model, optimizer)
    assert [state_type(model, optimizer, layer) for layer in (0, 1)] == [torch.float32, torch.uint8]
    for rows, dtype in ((64, torch.uint8), (63, torch.float32)):  # nor does one model decide for the next optimizer
        other = linear(rows)
        another = PagedAdamW8bit(other.parameters())
        step(other, another)
        assert state_type(other, another) == dtype
    alive = weakref.ref(model[0])
    del model, optimizer
    gc.collect()
    assert alive() is None


def test_a_module_keeps_its_embeddings_in_32_bits_by_itself(tmp_path):
    folder = tiny.write_model(tmp_path / "bert", "bert", vocab_size=200, intermediate_size=256)
    module = make_module(Case("bert", "full"), folder, optimizer=PagedAdamW8bit)
    state = fit(module, folder, 2).optimizers[0].state
    embedding = module.model.bert.embeddings.word_embeddings.weight
    assert embedding.numel() >= 4096
    assert state[embedding]["state1"].dtype == torch.float32
    assert state[module.model.bert.encoder.layer[0].intermediate.dense.weight]["state1"].dtype == torch.uint8


def test_it_follows_adamw_closely():
    models = [linear(), linear()]
    for model, kind in zip(models, (PagedAdamW8bit, torch.optim.AdamW), strict=True):
        step(model, kind(model.parameters(), lr=1e-2, weight_decay=0.1), steps=10)
    torch.testing.assert_close(models[0][0].weight, models[1][0].weight, rtol=0, atol=5e-3)


def test_it_goes_on_from_its_state_bit_by_bit():
    model, restored = linear(), linear()
    optimizer = PagedAdamW8bit(model.parameters())
    step(model, optimizer, steps=3)
    restored.load_state_dict(model.state_dict())
    other = PagedAdamW8bit(restored.parameters())
    state = optimizer.state[model[0].weight]["state1"].clone()
    other.load_state_dict(optimizer.state_dict())
    assert torch.equal(other.state[restored[0].weight]["state1"], state)
    step(model, optimizer)
    step(restored, other)
    assert torch.equal(model[0].weight, restored[0].weight)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there the state is paged")
def test_what_is_not_paged_is_logged_and_not_warned_about(caplog):
    model = linear()
    with caplog.at_level(logging.INFO, "peftlit"), warnings.catch_warnings():
        warnings.simplefilter("error")
        step(model, PagedAdamW8bit(model.parameters()))
    assert caplog.text.count("state is not paged on this device") == 1


def test_groups_keep_their_own_weight_decay():
    matrix, vector = nn.Parameter(torch.ones(64, 64)), nn.Parameter(torch.ones(64))
    groups = [{"params": [matrix]}, {"params": [vector], "weight_decay": 0.0}]
    optimizer = PagedAdamW8bit(groups, lr=0.1, weight_decay=0.5)
    matrix.grad, vector.grad = torch.zeros_like(matrix), torch.zeros_like(vector)
    optimizer.step()
    assert torch.allclose(matrix, torch.tensor(0.95))
    assert torch.equal(vector, torch.ones(64))
