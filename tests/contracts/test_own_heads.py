"""P1, P2, P3 and P10 under a head of our own, on every family; the Auto classes' heads stand in docs/families.md."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from peftlit.export.write import HEAD_FILE, export
from peftlit.modules.heads import PooledHead
from peftlit.plugins import TrainabilityGuard
from tests import device, tiny
from tests.contracts.recorded import record
from tests.contracts.test_p02_trainability import contract_trainability
from tests.contracts.test_p03_dropout import contract_dropout
from tests.contracts.test_p10_padding import EXACT, LargerPositions, contract_batch_mates, trained
from tests.modules.cases import FAMILIES, NF4, STORAGES, Case, make_module, pad_left, tokenizer

POOLINGS = ["mean", "cls", "last"]
DEALT = [
    (
        Case(family, ["lora", "none", "hira"][i % 3], STORAGES[i % 3]),
        POOLINGS[2] if family in tiny.DECODERS else POOLINGS[i % 2],
    )
    for i, family in enumerate(FAMILIES)
]


@pytest.mark.parametrize(("case", "pooling"), DEALT, ids=str)
def test_p01_p02_p03_p10_an_own_head_keeps_its_promises(case, pooling, model_folder, tmp_path):
    """It is float, trainable, and saved by itself; all learns, in training mode; padding changes nothing."""
    folder = model_folder(case.family)
    module = make_module(case, folder, backbone=EXACT, head=PooledHead(pooling=pooling, hidden_sizes=[16]))
    seen = record(module, folder, LargerPositions(), TrainabilityGuard())
    contract_trainability(seen)
    contract_dropout(seen)
    export(module, tokenizer(folder), tmp_path / "adapter", {})
    saved = load_file(tmp_path / "adapter" / HEAD_FILE)
    for name, weight in module.head.named_parameters():
        assert weight.dtype == torch.float32
        assert weight.requires_grad
        assert torch.equal(saved[name], weight), name
    assert len(saved) == 4
    if case.adapter != "none":
        trains = {name for name, p in module.model.named_parameters() if p.requires_grad}
        assert not [name for name in trains if "pooler" in name or "modules_to_save" in name]
    module.to(device.current)
    right = contract_batch_mates(module, folder, "right")
    if case.family in tiny.DECODERS:
        pad_left(module)
        left = contract_batch_mates(module, folder, "left")
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-3)


def test_p10_goes_red_when_pooling_sees_padding(bert, monkeypatch):
    monkeypatch.setattr(PooledHead, "pool", lambda self, hidden_states, attention_mask: hidden_states.mean(1))
    module = trained(Case("bert", "lora"), bert, head=PooledHead())
    with pytest.raises(AssertionError):
        contract_batch_mates(module, bert, "right")


def test_p02_targets_in_an_unused_pooler_are_left_out(bert):
    adapter = LoraConfig(r=4, target_modules="all-linear")
    module = make_module(Case("bert", "lora", NF4), bert, adapter=adapter, head=PooledHead())
    contract_trainability(record(module, bert, TrainabilityGuard()))
    assert any("output.dense.lora_A" in name for name, _ in module.named_parameters())
