from __future__ import annotations

import gc
import logging
import warnings
import weakref

import bitsandbytes
import pytest
import torch
from torch import nn

from peftlit.plugins import PagedAdamW8bit
from tests import tiny
from tests.modules.cases import Case, fit, make_module


def step(model: nn.Module, optimizer: PagedAdamW8bit, steps: int = 1) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        output = model(torch.arange(64)) if isinstance(model[0], nn.Embedding) else model(torch.ones(2, 64))
        output.square().mean().backward()
        optimizer.step()


@pytest.fixture(autouse=True)
def _nothing_left_by_other_tests():
    """bitsandbytes keeps its overrides in one object for the whole process."""
    manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
    manager.initialize()
    yield
    manager.initialize()


@pytest.mark.parametrize(("rows", "dtype"), [(64, torch.uint8), (63, torch.float32)], ids=["4096", "4032"])
def test_state_has_8_bits_from_4096_elements_on(rows, dtype):
    model = nn.Sequential(nn.Linear(64, rows, bias=False))
    optimizer = PagedAdamW8bit(model.parameters())
    step(model, optimizer)
    state = optimizer.state[model[0].weight]
    assert state["state1"].dtype == state["state2"].dtype == dtype


def train_with_embedding() -> tuple[nn.Module, PagedAdamW8bit]:
    model = nn.Sequential(nn.Embedding(64, 64), nn.Linear(64, 64, bias=False))
    optimizer = PagedAdamW8bit(model.parameters())
    optimizer.keep_embeddings_in_32_bits(model)
    step(model, optimizer)
    return model, optimizer


def test_embeddings_keep_32_bits():
    model, optimizer = train_with_embedding()
    assert optimizer.state[model[0].weight]["state1"].dtype == torch.float32
    assert optimizer.state[model[1].weight]["state1"].dtype == torch.uint8


def test_one_models_embeddings_do_not_decide_for_the_next_optimizer():
    train_with_embedding()
    model = nn.Sequential(nn.Linear(64, 64, bias=False))
    optimizer = PagedAdamW8bit(model.parameters())
    step(model, optimizer)
    assert optimizer.state[model[0].weight]["state1"].dtype == torch.uint8


def test_a_model_is_freed_with_its_optimizer():
    model, optimizer = train_with_embedding()
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
    weights = []
    for optimizer_class in (PagedAdamW8bit, torch.optim.AdamW):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 64))
        step(model, optimizer_class(model.parameters(), lr=1e-2, weight_decay=0.1), steps=10)
        weights.append(model[0].weight.detach())
    torch.testing.assert_close(*weights, rtol=0, atol=5e-3)


def test_it_goes_on_from_its_state_bit_by_bit():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64))
    optimizer = PagedAdamW8bit(model.parameters())
    step(model, optimizer, steps=3)
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    state = {k: v.clone() if torch.is_tensor(v) else v for k, v in optimizer.state[model[0].weight].items()}
    stored = optimizer.state_dict()
    restored = nn.Sequential(nn.Linear(64, 64))
    restored.load_state_dict(weights)
    other = PagedAdamW8bit(restored.parameters())
    other.load_state_dict(stored)
    assert torch.equal(other.state[restored[0].weight]["state1"], state["state1"])
    step(model, optimizer)
    step(restored, other)
    assert torch.equal(model[0].weight, restored[0].weight)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there the state is paged")
def test_what_is_not_paged_is_logged_and_not_warned_about(caplog):
    model = nn.Sequential(nn.Linear(64, 64))
    with caplog.at_level(logging.INFO, "peftlit"), warnings.catch_warnings():
        warnings.simplefilter("error")
        step(model, PagedAdamW8bit(model.parameters()))
    assert caplog.text.count("state is not paged on this device") == 1


def test_groups_keep_their_own_weight_decay():
    matrix, vector = nn.Parameter(torch.ones(64, 64)), nn.Parameter(torch.ones(64))
    optimizer = PagedAdamW8bit(
        [{"params": [matrix]}, {"params": [vector], "weight_decay": 0.0}], lr=0.1, weight_decay=0.5
    )
    matrix.grad, vector.grad = torch.zeros_like(matrix), torch.zeros_like(vector)
    optimizer.step()
    assert torch.allclose(matrix, torch.tensor(0.95))
    assert torch.equal(vector, torch.ones(64))
