"""P1, P2, P3 and P10 under a head of our own, on every family; over virtual tokens, P10 and P18, too."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from safetensors.torch import load_file

from peftlit import load
from peftlit.errors import AdapterError, ConfigError
from peftlit.export import reload_check as reload_room
from peftlit.export.write import HEAD_FILE, export
from peftlit.modules import SequenceClassification
from peftlit.modules.base import PeftModule
from peftlit.modules.heads import Head, PooledHead
from peftlit.plugins import TrainabilityGuard
from tests import device, tiny
from tests.contracts.recorded import record
from tests.contracts.test_p02_trainability import contract_trainability
from tests.contracts.test_p03_dropout import contract_dropout
from tests.contracts.test_p10_padding import EXACT, LONG, SHORT, LargerPositions, contract_batch_mates, trained
from tests.modules.cases import FAMILIES, NF4, RED, STORAGES, Case, collate, make_module, pad_left, tokenizer
from tests.modules.language_cases import shake

DEALT = [
    (Case(family, adapter, storage), "last" if family in tiny.DECODERS else pooling)
    for family, adapter, storage, pooling in zip(
        FAMILIES, cycle(["lora", "none", "hira"]), cycle(STORAGES), cycle(["mean", "cls"]), strict=False
    )
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


# Virtual tokens: the head reads the text alone, and its export answers the same ---------------------------------------

VIRTUAL = 3
ADAPTERS = {"prompt": PromptTuningConfig, "p-tuning": PromptEncoderConfig, "prefix": PrefixTuningConfig}
POOLED_BY = {"bert": ("cls", "mean", "last"), "gpt2": ("mean", "last"), "llama": ("mean", "last")}
over_all = pytest.mark.parametrize("family", POOLED_BY)


@dataclass(kw_only=True, eq=False, repr=False)
class SumOfText(Head):
    """A head of a user's own, which trusts that hidden states and mask stand on the same tokens."""

    def build(self, hidden_size: int, num_outputs: int) -> None:
        self.linear = torch.nn.Linear(hidden_size, num_outputs)

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        assert hidden_states.shape[:2] == attention_mask.shape
        return self.linear((hidden_states * attention_mask.unsqueeze(-1)).sum(1))


def unbuilt(family: str, adapter: str, folder: Path, head: Head, **arguments: Any) -> SequenceClassification:
    config = ADAPTERS[adapter](num_virtual_tokens=VIRTUAL)
    return make_module(Case(family, "lora"), folder, adapter=config, head=head, **arguments)


def built(*arguments: Any) -> SequenceClassification:
    """A module that passed the check, whose trainable weights are far from their start."""
    module = unbuilt(*arguments)
    module.check()
    return shake(module).to(device.current)


def text_positions(module: SequenceClassification, batch: Any) -> torch.Tensor:
    """The last hidden states at the text's tokens, from the body itself and what peft puts before the text."""
    body, prompt = module.model.get_base_model(), module.model.get_prompt(len(batch["input_ids"]))
    mask = torch.nn.functional.pad(batch["attention_mask"], (VIRTUAL, 0), value=1)
    if not isinstance(prompt, torch.Tensor):
        return body(batch["input_ids"], attention_mask=mask, past_key_values=prompt).last_hidden_state
    rows = torch.cat([prompt, body.get_input_embeddings()(batch["input_ids"])], dim=1)
    return body(inputs_embeds=rows, attention_mask=mask).last_hidden_state[:, VIRTUAL:]


def contract_the_head_reads_the_text(module: SequenceClassification, folder: Path) -> None:
    """A row's logits are those of its own tokens, pooled one row at a time."""
    batch = {name: value.to(device.current) for name, value in collate(folder, [*SHORT, LONG]).items()}
    module.eval()
    with torch.inference_mode():
        hidden = text_positions(module, batch)
        for row, mask in enumerate(batch["attention_mask"]):
            text = hidden[row][mask.bool()]
            pooled = {"cls": text[0], "mean": text.mean(0), "last": text[-1]}[module.head.pooling]
            torch.testing.assert_close(module.logits(batch)[row], module.head.layers(pooled), rtol=1e-5, atol=1e-5)


@over_all
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_p10_the_head_reads_the_text_and_neither_virtual_tokens_nor_batch_mates(family, adapter, model_folder):
    folder = model_folder(family)
    for pooling in POOLED_BY[family]:
        module = built(family, adapter, folder, PooledHead(pooling=pooling))
        contract_the_head_reads_the_text(module, folder)
        right = contract_batch_mates(module, folder, "right")
        if family in tiny.DECODERS and adapter == "prefix":
            pad_left(module)
            torch.testing.assert_close(contract_batch_mates(module, folder, "left"), right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_p10_goes_red_when_virtual_tokens_are_left_in_the_row(pooling, bert, monkeypatch):
    module = built("bert", "p-tuning", bert, PooledHead(pooling=pooling))

    def uncut(self: PeftModule, batch: Any) -> torch.Tensor:
        return self.model(**self.model_inputs(batch)).last_hidden_state

    monkeypatch.setattr(PeftModule, "text_states", uncut)
    with pytest.raises((*RED, RuntimeError)):
        contract_the_head_reads_the_text(module, bert)


@pytest.fixture
def reload_in_this_process(monkeypatch):
    """Run the reload check's scripts here, with their own arguments: what they compute is what is looked at."""

    def run(script: str, arguments: list[str], *_: Any) -> None:
        monkeypatch.setattr(sys, "argv", ["-c", *arguments])
        exec(script, {"__name__": "__main__"})

    monkeypatch.setattr(reload_room, "run_in_fresh_process", run)


def contract_reload(module: SequenceClassification, folder: Path, out: Path) -> None:
    export(module, tokenizer(folder), out, {})
    texts = [str(row["text"]) for row in (*SHORT, LONG)]
    assert reload_room.compare_answers(module, tokenizer(folder), texts, out).difference < 1e-4


@over_all
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_p18_plain_peft_and_load_answer_the_same(family, adapter, model_folder, tmp_path, reload_in_this_process):
    folder = model_folder(family)
    module = built(family, adapter, folder, PooledHead(pooling="mean") if adapter == "prompt" else SumOfText())
    contract_reload(module, folder, tmp_path / "adapter")
    loaded = load(tmp_path / "adapter", device=device.current)
    batch = collate(folder, [*SHORT, LONG])
    torch.testing.assert_close(loaded.logits(batch), module.evaluate_batch(batch), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_p18_a_fresh_process_answers_the_same(bert, tmp_path):
    contract_reload(built("bert", "p-tuning", bert, PooledHead(pooling="cls")), bert, tmp_path / "adapter")


@pytest.mark.parametrize("adapter", ["prompt", "p-tuning"])
def test_left_padding_between_virtual_tokens_and_text_is_refused(adapter, model_folder):
    left = {"padding_side": "left"}
    module = unbuilt("gpt2", adapter, model_folder("gpt2"), PooledHead(pooling="last"), data=left)
    with pytest.raises(ConfigError, match=r"^data.padding_side: left padding would stand between the virtual tokens"):
        module.check()


NEEDED = [(family, "prefix", "past_key_values") for family in ("modernbert", "deberta-v3", tiny.CUSTOM_CODE)]


@pytest.mark.parametrize(("family", "adapter", "needed"), [*NEEDED, (tiny.CUSTOM_CODE, "prompt", "inputs_embeds")])
def test_a_model_that_cannot_take_virtual_tokens_is_refused_before_weights_load(family, adapter, needed, model_folder):
    module, name = unbuilt(family, adapter, model_folder(family), PooledHead()), ADAPTERS[adapter].__name__
    with pytest.raises(AdapterError, match=rf"^adapter: {name} needs a model that takes {needed}"):
        module.check()
