"""P4: trainables stay float32 under fp16 and bf16; the precision is chosen by the hardware; skipped steps count."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from lightning.pytorch.plugins import MixedPrecision

from peftlit.adapters import attach as attach_adapter
from peftlit.errors import ConfigError
from peftlit.modules import build
from peftlit.plugins import AdapterPrecision, precision
from peftlit.plugins.precision import choose_precision
from tests import device
from tests.contracts.recorded import Recorded, record
from tests.modules.cases import FAST, NF4, Case, command_line, fit, make_module, weights_of

COMPUTE = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@pytest.fixture
def bfloat16_everywhere(monkeypatch):
    """Any CPU computes in bfloat16, slowly where it has to emulate it."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)


def contract_precision(seen: Recorded, name: str) -> None:
    assert seen.outputs == {COMPUTE[name]}, "computes in another precision than asked"
    odd = {n: p.dtype for n, p in seen.module.named_parameters() if p.requires_grad and p.dtype != torch.float32}
    assert not odd, "trains, but not in float32"
    assert seen.gradients == {torch.float32}
    states = seen.trainer.optimizers[0].state.values()
    kept = {v.dtype for state in states for v in state.values() if isinstance(v, torch.Tensor) and v.ndim}
    assert kept == {torch.float32}, "optimizer state is not in float32"


@pytest.mark.parametrize("case", [case for case in FAST if case.refused is None], ids=str)
def test_p04_trainables_stay_float32_under_float16(case, model_folder):
    """Every family twice and every adapter in every storage; bfloat16 on every row is in ``test_rows.py``."""
    folder = model_folder(case.family)
    seen = record(make_module(case, folder), folder, steps=8, precision="16-mixed")  # it may skip a few for a scale
    contract_precision(seen, "16-mixed")


def test_p04_float32_computes_in_float32(bert):
    contract_precision(record(make_module(Case("bert", "lora"), bert), bert, steps=2), "32-true")


@pytest.mark.parametrize("adapter", ["lora", "none", "full"])
@pytest.mark.parametrize(("dtype", "name"), [("bfloat16", "bf16-mixed"), ("float16", "16-mixed")])
@pytest.mark.usefixtures("bfloat16_everywhere")
def test_p04_trainables_stay_float32_on_frozen_weights_of_16_bits(adapter, dtype, name, bert):
    module = make_module(Case("bert", adapter), bert, backbone={"dtype": dtype})
    contract_precision(record(module, bert, steps=8, precision=name), name)
    if adapter != "full":
        frozen = {p.dtype for n, p in module.named_parameters() if "embeddings" in n}
        assert frozen == {getattr(torch, dtype)}


CHOICES = [  # asked, device, has bfloat16, chosen
    (None, "cuda", True, "bf16-mixed"), (None, "cuda", False, "16-mixed"), ("auto", "cuda", False, "16-mixed"),
    (None, "cpu", True, "bf16-mixed"), (None, "cpu", False, "32-true"), (None, "mps", False, "16-mixed"),
    ("bf16", "cuda", True, "bf16-mixed"), ("16", "cuda", True, "16-mixed"), (16, "cuda", True, "16-mixed"),
    (32, "cuda", True, "32-true"), ("32-true", "cuda", True, "32-true"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "device", "has_bfloat16", "chosen"), CHOICES)
def test_p04_the_hardware_chooses_unless_asked(asked, device, has_bfloat16, chosen, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda _: has_bfloat16)
    assert choose_precision(asked, device) == chosen


@pytest.mark.parametrize(("device", "instead"), [("cpu", "32-true"), ("cuda", "16-mixed")])
def test_p04_bfloat16_where_there_is_none_is_refused(device, instead, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda _: False)
    for asked in ("bf16-mixed", "bf16"):
        with pytest.raises(ConfigError, match=f"has no bfloat16; use {instead}"):
            choose_precision(asked, device)
    with pytest.raises(ConfigError, match="has no bfloat16"):
        AdapterPrecision("bf16-mixed", device)


@pytest.mark.parametrize("asked", ["16-true", "bf16-true", "64", "transformer-engine", "half"])
def test_p04_precisions_that_would_train_in_16_bits_are_refused(asked):
    with pytest.raises(ConfigError, match=f"got '{asked}'.*choose bf16-mixed, 16-mixed, 32-true"):
        choose_precision(asked, "cuda")


@pytest.mark.usefixtures("bfloat16_everywhere")
def test_p04_float16_has_a_scaler_and_nothing_else_does():
    scaled = [AdapterPrecision(name, "cpu").scaler is not None for name in ("32-true", "bf16-mixed", "16-mixed")]
    assert scaled == [False, False, True]


def test_p04_the_choice_is_logged(caplog):
    with caplog.at_level(logging.INFO, "peftlit"):
        chosen = AdapterPrecision("auto", "cpu").precision
    assert f"precision: {chosen} on cpu (chosen by the hardware)" in caplog.text


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_p04_the_command_line_leaves_the_choice_to_the_hardware(has_bfloat16, bert, toy_data, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda _: has_bfloat16)
    cli = command_line(Case("bert", "lora"), bert, toy_data, tmp_path / "run", steps=1)
    assert cli.trainer.precision == ("bf16-mixed" if has_bfloat16 else "32-true")


class Standstill(Callback):
    """Count the optimizer steps after which no weight had changed."""

    def __init__(self) -> None:
        self.count = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.before = weights_of(pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        after = weights_of(pl_module)
        self.count += all(torch.equal(after[name], weight) for name, weight in self.before.items())
        self.before = after


def contract_skipped_steps(case: Case, folder: Path, **arguments: Any) -> AdapterPrecision:
    """With a loss scale so high that the first two steps overflow."""
    plugin, standstill = AdapterPrecision("16-mixed", device.current), Standstill()
    plugin.scaler = torch.amp.GradScaler(device.current, init_scale=2.0**60, backoff_factor=2.0**-24)
    fit(make_module(case, folder), folder, 6, standstill, precision=plugin, **arguments)
    assert plugin.skipped_steps == standstill.count
    assert plugin.skipped_steps >= 1
    return plugin


@pytest.mark.parametrize("case", [Case("bert", "lora"), Case("llama", "lora", NF4)], ids=str)
@pytest.mark.parametrize("clip", [None, 1.0], ids=["", "clipped"])
def test_p04_steps_skipped_by_the_scaler_are_counted(case, clip, model_folder):
    plugin = contract_skipped_steps(case, model_folder(case.family), gradient_clip_val=clip)
    restored = AdapterPrecision("16-mixed", device.current)
    restored.load_state_dict(plugin.state_dict())
    assert restored.skipped_steps == plugin.skipped_steps
    assert restored.scaler.get_scale() == plugin.scaler.get_scale()


@pytest.mark.usefixtures("bfloat16_everywhere")
def test_p04_goes_red_when_trainables_are_cast_to_16_bits(bert, monkeypatch):
    def cast(*arguments: Any, **keywords: Any) -> Any:
        model = attach_adapter(*arguments, **keywords)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
        return model

    monkeypatch.setattr(build, "attach", cast)
    seen = record(make_module(Case("bert", "lora"), bert), bert, precision="bf16-mixed")
    with pytest.raises(AssertionError, match="not in float32"):
        contract_precision(seen, "bf16-mixed")


def test_p04_goes_red_when_skipped_steps_are_not_counted(bert, monkeypatch):
    monkeypatch.setattr(AdapterPrecision, "optimizer_step", MixedPrecision.optimizer_step)
    with pytest.raises(AssertionError):
        contract_skipped_steps(Case("bert", "lora"), bert)
