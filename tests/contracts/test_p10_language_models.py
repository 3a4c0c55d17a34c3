"""P10 for language models: a row's loss and logits depend neither on batch mates nor on padding, packed or not."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from torch.nn.functional import cross_entropy

from peftlit.backbone import Backbone
from peftlit.batch import IGNORE_INDEX, Batch, DataSpec
from peftlit.data import ChatFiles, TextLines, collate
from peftlit.data.collate import pad
from peftlit.errors import ConfigError
from peftlit.modules import CausalLM, MaskedLM
from peftlit.modules.base import PeftModule
from tests import tiny
from tests.conftest import errors_of
from tests.contracts.test_p10_padding import without
from tests.data.language_data import chat_files, documents, text_lines, write_lines

CAUSAL = sorted(tiny.DECODERS)
MASKED = sorted(set(tiny.CONFIGS) - tiny.DECODERS)
ATTENTION = ["sdpa", "eager"]
assert_close = partial(torch.testing.assert_close, rtol=5e-6, atol=5e-6)
"""Logits are about 1 and a row's loss about 100, in float32: sums over more padding differ in the last bits."""


def lm(family: str, folder: Path, attention: str = "sdpa", side: str | None = None) -> CausalLM | MaskedLM:
    """A language model whose adapter and positions are large enough to matter."""
    kind = CausalLM if family in tiny.DECODERS else MaskedLM
    module = kind(
        Backbone(str(folder), attn_implementation=attention),
        LoraConfig(r=4, target_modules=tiny.TARGETS[family], fan_in_fan_out=family == "gpt2"),
        data=DataSpec(pad_token_id=1, padding_side=side),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module.configure_model(torch.device("cpu"))
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and "lora_" in name:
                parameter.data.normal_(std=0.3)
            if "position" in name or "wpe" in name:
                parameter.data *= 20
    return module.eval()


def language_data(kind: str, folder: Path, model: Path, **settings: Any) -> TextLines | ChatFiles:
    """Documents or prompts of uneven lengths."""
    settings = {"tokenizer": str(model), "max_length": 32, "batch_size": 6, "group_by_length": False, **settings}
    if kind == "prompts":
        chance = documents(24, longest=12)
        rows = [{"prompt": text, "completion": f" {other}"} for text, other in zip(chance, chance[::-1], strict=True)]
        data: TextLines | ChatFiles = chat_files(folder, rows, **settings)
    else:
        data = text_lines(folder, documents(24, longest=30), **{"objective": "causal", **settings})
    data.setup("fit")
    return data


def take(columns: dict[str, list[Any]], rows: Any) -> dict[str, list[Any]]:
    return {name: [values[i] for i in rows] for name, values in columns.items()}


def seen(module: CausalLM | MaskedLM, batch: Batch) -> list[tuple[torch.Tensor, ...]]:
    """Each row's summed loss, number of labels, tokens found, and the logits of its tokens."""
    logits, rows = module.evaluate_batch(batch), []
    for row, kept in enumerate(batch["attention_mask"].bool()):
        alone = torch.full_like(batch["labels"], IGNORE_INDEX)
        alone[row] = batch["labels"][row]
        with torch.no_grad():
            rows.append((*module.loss({**batch, "labels": alone}), logits[row][kept]))
    return rows


def contract_batch_mates(module: CausalLM | MaskedLM, collator: Any, columns: dict[str, list[Any]]) -> list[Any]:
    """Every row gives the same alone and beside others, of which one is the longest."""
    count = len(columns["row"])
    assert len({len(ids) for ids in columns["input_ids"]}) > 3, "rows of uneven lengths"
    together = seen(module, collator(columns))
    for row in range(count):
        (alone,) = seen(module, collator(take(columns, [row])))
        assert alone[1] == together[row][1] > 0
        for i in (0, 3):
            assert_close(together[row][i], alone[i])
    return together


def contract_sides(family: str, model: Path, folder: Path, kind: str = "lines", attention: str = "sdpa") -> None:
    """Left padding gives what right padding does."""
    found = {}
    for side in ("right", "left"):
        data = language_data(kind, folder, model, padding_side=side)
        module = lm(family, model, attention, side)
        columns = take(data._encoded["train"][:], range(8))
        batch = data._collator("train")(columns)
        assert bool(batch["attention_mask"][:, 0 if side == "right" else -1].all())
        found[side] = contract_batch_mates(module, data._collator("train"), columns)
    for right, left in zip(found["right"], found["left"], strict=True):
        assert right[1] == left[1]
        for one, other in zip(right, left, strict=True):
            assert_close(other, one)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("kind", ["lines", "prompts"])
@pytest.mark.parametrize("family", CAUSAL)
def test_p10_a_row_of_a_causal_model_depends_neither_on_batch_mates_nor_on_the_side(
    family, kind, attention, model_folder, tmp_path
):
    contract_sides(family, model_folder(family), tmp_path, kind, attention)


@pytest.mark.parametrize("family", MASKED)
def test_p10_a_row_of_a_masked_model_does_not_depend_on_batch_mates(family, model_folder, tmp_path):
    data = language_data("lines", tmp_path, model_folder(family), objective="masked")
    module = lm(family, model_folder(family), "eager" if family == "deberta-v3" else "sdpa")
    contract_batch_mates(module, data._collator("train"), take(data._encoded["train"][:], range(8)))


def contract_refused_before_weights_load(module: CausalLM | MaskedLM, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^data\.{said}"):
        module.check()
    assert module.model is None


@pytest.mark.parametrize("family", MASKED)
def test_p10_masked_models_refuse_left_padding_before_weights_load(family, model_folder):
    module = MaskedLM(Backbone(str(model_folder(family))), data=DataSpec(padding_side="left"))
    contract_refused_before_weights_load(module, "padding_side: left padding would move the positions")


# Packed rows -------------------------------------------------------------------------------------------------------


def token_losses(module: CausalLM, batch: Batch) -> dict[tuple[int, ...], torch.Tensor]:
    """The loss of every label, by the tokens of its sequence up to it."""
    logits = module.evaluate_batch(batch)
    losses = cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="none")
    losses = losses.view(len(logits), -1)
    positions = batch["position_ids"] if "position_ids" in batch else (batch["attention_mask"].cumsum(1) - 1)
    found = {}
    for row, column in (batch["labels"] != IGNORE_INDEX).nonzero().tolist():
        start = column - int(positions[row, column])
        found[tuple(batch["input_ids"][row, start : column + 1].tolist())] = losses[row, column - 1]
    return found


def contract_packed(family: str, model: Path, folder: Path, attention: str, kind: str = "lines") -> None:
    """Every label of packed rows costs what it does in rows of their own."""
    module = lm(family, model, attention)
    plain = language_data(kind, folder, model, max_length=48)
    packed = language_data(kind, folder, model, max_length=48, packing=True)
    assert len(packed._encoded["train"]) < len(plain._encoded["train"])
    found: list[dict[tuple[int, ...], torch.Tensor]] = []
    totals = []
    for data in (plain, packed):
        batches = list(data.train_dataloader())
        found.append({key: loss for batch in batches for key, loss in token_losses(module, batch).items()})
        with torch.no_grad():
            parts = [module.loss(batch) for batch in batches]
        totals.append([sum(float(part[i]) for part in parts) for i in range(3)])
    alone, together = found
    assert set(alone) == set(together)
    assert_close(torch.stack([together[name] for name in alone]), torch.stack(list(alone.values())))
    assert totals[1] == pytest.approx(totals[0], rel=1e-5)
    assert totals[1][1:] == totals[0][1:]


@pytest.mark.parametrize(("attention", "kind"), [("sdpa", "lines"), ("eager", "lines"), ("sdpa", "prompts")])
@pytest.mark.parametrize("family", CAUSAL)
def test_p10_packed_rows_cost_what_they_do_alone(family, attention, kind, model_folder, tmp_path):
    contract_packed(family, model_folder(family), tmp_path, attention, kind)


@pytest.mark.parametrize("adapter", [PromptTuningConfig, PromptEncoderConfig, PrefixTuningConfig])
def test_p10_packing_and_left_padding_under_virtual_tokens_are_refused_before_weights_load(adapter, model_folder):
    """Their positions move with padding, and peft takes no others; what stands in the past moves nothing."""
    packed, left = (
        CausalLM(Backbone(str(model_folder("llama"))), adapter(num_virtual_tokens=3), data=data)
        for data in (DataSpec(packing=True), DataSpec(padding_side="left"))
    )
    contract_refused_before_weights_load(packed, "packing: .* puts its virtual tokens before .* leave packing")
    if adapter is PrefixTuningConfig:
        left.check()
    else:
        contract_refused_before_weights_load(left, "padding_side: left padding would stand between the virtual")


def test_p10_the_command_line_tells_the_model_that_rows_are_packed(model_folder, tmp_path, peftlit):
    train = write_lines(tmp_path / "train.txt", documents(30))
    code, _, err = peftlit(
        "fit", "--model", "CausalLM", "--model.backbone.name_or_path", model_folder("llama"),
        "--model.adapter", "peft.PromptTuningConfig", "--model.adapter.num_virtual_tokens", 3, "--data", "TextLines",
        "--data.train_file", train, "--data.packing", "true", "--data.max_length", 32, "--run_dir", tmp_path / "run",
    )  # fmt: skip
    assert code == 2
    assert [line for line in errors_of(err) if "data.packing: PromptTuningConfig" in line]
    assert not (tmp_path / "run").exists()


# The end of a text -------------------------------------------------------------------------------------------------


def contract_one_end(kind: str, model: Path, folder: Path, **settings: Any) -> None:
    """In all batches of an epoch, each document has one label that ends it, and the token is seen."""
    data = language_data(kind, folder, model, **settings)
    end = data.get_tokenizer().eos_token_id
    assert data.data_spec().pad_token_id == end, "the tokenizer pads with its end token"
    ends: list[int] = []
    for batch in data.train_dataloader():
        here = batch["labels"] == end
        ends += batch["row"][here.nonzero()[:, 0]].tolist()
        if "attention_mask" in batch:
            assert batch["attention_mask"][here].all()
            assert (batch["labels"][batch["attention_mask"] == 0] == IGNORE_INDEX).all()
    if settings.get("packing"):
        assert len(ends) == 24
    else:
        assert sorted(ends) == list(range(1, 25))


@pytest.mark.parametrize("settings", [{}, {"padding_side": "left"}, {"packing": True}], ids=["right", "left", "packed"])
@pytest.mark.parametrize("kind", ["lines", "prompts"])
@pytest.mark.parametrize("family", CAUSAL)
def test_p10_one_end_of_text_label_survives_per_document(family, kind, settings, model_folder, tmp_path):
    contract_one_end(kind, model_folder(family), tmp_path, **settings)


# Breakers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", MASKED)
def test_p10_breaker_masked_model_without_attention_mask(family, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(PeftModule, "model_inputs", without("attention_mask"))
    with pytest.raises(AssertionError, match="not close"):
        test_p10_a_row_of_a_masked_model_does_not_depend_on_batch_mates(family, model_folder, tmp_path)


@pytest.mark.parametrize("family", CAUSAL)
def test_p10_breaker_causal_model_without_attention_mask(family, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(PeftModule, "model_inputs", without("attention_mask", "position_ids"))
    with pytest.raises(AssertionError, match="not close"):
        contract_sides(family, model_folder(family), tmp_path)


def test_p10_breaker_positions_that_count_the_padding(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(PeftModule, "model_inputs", without("position_ids"))
    with pytest.raises(AssertionError, match="not close"):
        contract_sides("gpt2", model_folder("gpt2"), tmp_path)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("family", CAUSAL)
def test_p10_breaker_packed_rows_beside_a_cache(family, attention, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(PeftModule, "model_inputs", without("use_cache"))
    with pytest.raises(AssertionError, match="not close"):
        contract_packed(family, model_folder(family), tmp_path, attention)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("family", CAUSAL)
def test_p10_breaker_packed_rows_without_positions(family, attention, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(PeftModule, "model_inputs", without("position_ids"))
    with pytest.raises(AssertionError, match="not close"):
        contract_packed(family, model_folder(family), tmp_path, attention)


@pytest.mark.parametrize("kind", ["lines", "prompts"])
def test_p10_breaker_labels_masked_by_the_id_of_the_padding(kind, model_folder, tmp_path, monkeypatch):
    def by_id(tokenizer: Any, *given: Any, **named: Any) -> Batch:
        batch = pad(tokenizer, *given, **named)
        batch["labels"][batch["input_ids"] == tokenizer.pad_token_id] = IGNORE_INDEX
        return batch

    monkeypatch.setattr(collate, "pad", by_id)
    with pytest.raises(AssertionError):
        contract_one_end(kind, model_folder("gpt2"), tmp_path)
