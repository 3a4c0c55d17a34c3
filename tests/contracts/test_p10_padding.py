"""P10: logits depend neither on batch mates nor on the padding side; a missing padding token is set and saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from peft import AutoPeftModelForSequenceClassification, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from transformers import AutoConfig, AutoTokenizer

from peftlit.data import TextFiles
from peftlit.errors import AdapterError, ConfigError
from peftlit.export.reload_check import compare_answers
from peftlit.export.write import export
from peftlit.modules import SequenceClassification, build
from peftlit.modules.base import PeftModule
from tests import device, tiny
from tests.conftest import toy_rows
from tests.modules.cases import FAMILIES, NF4, Case, collate, command_line, fit, make_module, pad_left, tokenizer

CAUSAL = sorted(tiny.DECODERS)
NOT_CAUSAL = sorted(set(FAMILIES) - tiny.DECODERS)
TOLERANCE = {None: 1e-5, NF4: 1e-5, "int8": 1e-3}
SHORT = [{"text": "good movie", "label": 1}, {"text": "bad", "label": 0}]
EXACT = {"compute_dtype": "float32"}
"""4-bit layers compute in float32: a sum over more padding may differ in its last bit, and rounding to bfloat16 makes
that a difference as large as what is looked for.
"""
LONG = max(toy_rows(40), key=lambda row: len(str(row["text"])))


class LargerPositions(Callback):
    """Make position embeddings larger, so that positions matter."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        for name, weight in pl_module.named_parameters():
            if "position" in name or "wpe" in name:
                weight.data *= 20


def trained(case: Case, folder: Path, **arguments: Any) -> SequenceClassification:
    """A module whose adapter is no longer the identity, and whose positions matter."""
    module = make_module(case, folder, backbone=EXACT, **arguments)
    fit(module, folder, 3, LargerPositions())
    return module.to(device.current)  # from the CPU, where training leaves it


def contract_batch_mates(module: SequenceClassification, folder: Path, side: str) -> torch.Tensor:
    """Return the logits of the short texts, which are the same alone and beside a long one."""
    alone = torch.cat([module.evaluate_batch(collate(folder, [row], side)) for row in SHORT])
    together = module.evaluate_batch(collate(folder, [*SHORT, LONG], side))[: len(SHORT)]
    tolerance = TOLERANCE[module.backbone.quantization]
    torch.testing.assert_close(together, alone, rtol=tolerance, atol=tolerance)
    return together


def contract_padding(module: SequenceClassification, case: Case, folder: Path) -> None:
    """Trained with right padding, a causal model answers the same under left padding; others refuse it."""
    right = contract_batch_mates(module, folder, "right")
    if case.family in CAUSAL:
        pad_left(module)
        left = contract_batch_mates(module, folder, "left")
        tolerance = TOLERANCE[case.quantization]
        torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)
    else:
        with pytest.raises(ConfigError, match=r"padding_side.*right"):
            make_module(case, folder, data={"padding_side": "left"}).check()


@pytest.mark.parametrize("adapter", [PromptTuningConfig, PromptEncoderConfig, PrefixTuningConfig])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_p10_virtual_tokens_do_not_make_padding_count(family, adapter, model_folder):
    """peft hides the tokens behind embeddings, and transformers then takes the last position for the last token."""
    folder = model_folder(family)
    module = make_module(Case(family, "lora"), folder, adapter=adapter(num_virtual_tokens=3))
    if family in CAUSAL and adapter is not PrefixTuningConfig:
        with pytest.raises(AdapterError, match=r"^adapter: .* puts virtual tokens into the row, and .* takes padding"):
            module.check()
        return
    module.check()
    module.configure_model()
    contract_batch_mates(module, folder, "right")
    if family in CAUSAL:
        pad_left(module)
        contract_batch_mates(module, folder, "left")


@pytest.mark.parametrize("family", FAMILIES)
def test_p10_either_side_passes_the_check_where_attention_looks_back_and_right_where_it_looks_both_ways(
    family, model_folder
):
    for side in ("right", "left") if family in CAUSAL else ("right",):
        make_module(Case(family, "lora"), model_folder(family), data={"padding_side": side}).check()


@pytest.mark.parametrize("family", CAUSAL)
def test_p10_left_padding_trains(family, model_folder, toy_data, tmp_path):
    left = "--data.padding_side=left"
    cli = command_line(Case(family, "lora"), model_folder(family), toy_data, tmp_path / "run", left, steps=1)
    assert cli.model.data.padding_side == "left"
    assert next(iter(cli.datamodule.train_dataloader()))["attention_mask"][:, -1].all()


@pytest.mark.parametrize("source", ["config", "tokenizer"])
def test_p10_the_command_line_refuses_left_padding_before_weights_load(source, toy_data, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "load_weights", lambda *_, **__: pytest.fail("weights were loaded"))
    folder = tiny.write_model(tmp_path / "bert", "bert")
    if source == "tokenizer":
        settings = folder / "tokenizer_config.json"
        settings.write_text(json.dumps({**json.loads(settings.read_text()), "padding_side": "left"}))
        assert AutoTokenizer.from_pretrained(folder).padding_side == "left"
    more = ["--data.padding_side=left"] if source == "config" else []
    with pytest.raises(ConfigError, match="padding_side.*positions"):
        command_line(Case("bert", "lora"), folder, toy_data, tmp_path / "run", *more)


@pytest.mark.parametrize("family", CAUSAL)
def test_p10_a_missing_pad_token_is_set_on_tokenizer_and_config(family, model_folder, toy_data):
    folder = model_folder(family)
    assert AutoTokenizer.from_pretrained(folder).pad_token is None
    assert AutoConfig.from_pretrained(folder).pad_token_id is None
    data = TextFiles(train_file=str(toy_data / "train.jsonl"), tokenizer=str(folder), max_length=64)
    assert data.get_tokenizer().pad_token == "</s>"
    module = make_module(Case(family, "lora"), folder, data={"pad_token_id": data.data_spec().pad_token_id})
    module.configure_model()
    assert module.model.config.pad_token_id == data.get_tokenizer().pad_token_id == 1


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("adapter", ["lora", "none", "full"])
def test_p10_the_pad_token_is_saved_so_that_plain_peft_answers_padded_batches(family, adapter, model_folder, tmp_path):
    folder, out = model_folder(family), tmp_path / "adapter"
    module = make_module(Case(family, adapter), folder)
    fit(module, folder, 3)
    export(module, tokenizer(folder), out, {})
    saved = AutoTokenizer.from_pretrained(out)
    assert saved.pad_token == "</s>"
    if adapter == "full":
        assert json.loads((out / "config.json").read_text())["pad_token_id"] == 1
    if adapter == "lora":
        plain = AutoPeftModelForSequenceClassification.from_pretrained(
            out, num_labels=2, pad_token_id=saved.pad_token_id
        ).eval()
        batch = collate(folder, [*SHORT, LONG])
        with torch.inference_mode():
            logits = plain(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        torch.testing.assert_close(logits, module.evaluate_batch(batch), rtol=1e-4, atol=1e-4)
        texts = [str(row["text"]) for row in (*SHORT, LONG)]
        assert compare_answers(module, tokenizer(folder), texts, out).difference < 1e-4


def test_p10_the_pad_token_is_saved_with_the_config_of_random_weights(model_folder, tmp_path):
    folder = model_folder("gpt2")
    module = make_module(Case("gpt2", "lora"), folder)
    module.backbone.config, module.backbone.name_or_path = str(folder), None
    module.configure_model()
    export(module, tokenizer(folder), tmp_path / "adapter", {})
    assert AutoConfig.from_pretrained(tmp_path / "adapter" / "random_base").pad_token_id == 1


def without(*names: str) -> Any:
    """A ``model_inputs`` that leaves something out."""
    whole = PeftModule.model_inputs
    return lambda self, batch: {name: value for name, value in whole(self, batch).items() if name not in names}


@pytest.mark.parametrize("family", NOT_CAUSAL)
def test_p10_goes_red_when_the_attention_mask_is_dropped(family, model_folder, monkeypatch):
    module = trained(Case(family, "none"), model_folder(family))
    monkeypatch.setattr(PeftModule, "model_inputs", without("attention_mask"))
    with pytest.raises(AssertionError, match="not close"):
        contract_batch_mates(module, model_folder(family), "right")


@pytest.mark.parametrize("family", CAUSAL)
def test_p10_goes_red_under_left_padding_when_the_attention_mask_is_dropped(family, model_folder, monkeypatch):
    monkeypatch.setattr(PeftModule, "model_inputs", without("attention_mask", "position_ids"))
    case = Case(family, "none")
    with pytest.raises(AssertionError, match="not close"):
        contract_padding(trained(case, model_folder(family)), case, model_folder(family))


def test_p10_goes_red_when_positions_count_the_padding(model_folder, monkeypatch):
    monkeypatch.setattr(PeftModule, "model_inputs", without("position_ids"))
    case = Case("gpt2", "none")
    with pytest.raises(AssertionError, match="not close"):
        contract_padding(trained(case, model_folder("gpt2")), case, model_folder("gpt2"))
