"""P2: after a few optimizer steps every trainable tensor had a finite gradient and moved, and no frozen one did."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning import Callback
from transformers import Adafactor

from peftlit.backbone import weights
from peftlit.errors import TrainabilityError
from peftlit.modules import SequenceClassification
from peftlit.modules.optim import LinearWarmup, learning_rate
from peftlit.plugins import AdapterPrecision, TrainabilityGuard
from tests import tiny
from tests.contracts.recorded import Recorded, record
from tests.modules.cases import NF4, RED, Case, fit, make_module

NEEDS_REPACKING_CPU = pytest.mark.skipif(
    not torch.cpu._is_avx512_bf16_supported(), reason="bitsandbytes repacks 4-bit weights on AVX512-BF16 CPUs only"
)


def contract_trainability(seen: Recorded) -> None:
    module = seen.module
    assert not seen.not_finite
    trainable = {name for name, p in module.named_parameters() if p.requires_grad}
    moved = {name for name, p in module.named_parameters() if not torch.equal(p, seen.before[name])}
    assert trainable, "nothing trains"
    assert trainable - seen.finite == set(), "trains, but had no gradient"
    assert trainable - moved == set(), "trains, but did not move"
    assert moved - trainable == set(), "frozen, but moved"


def test_p02_gradient_checkpointing_gives_the_same_weights(model_folder):
    results = []
    for gradient_checkpointing in (False, True):
        torch.manual_seed(0)
        module = make_module(
            Case("llama", "lora", NF4),
            model_folder("llama"),
            backbone={"gradient_checkpointing": gradient_checkpointing},
            adapter=Case("llama", "lora").peft(lora_dropout=0.0),
        )
        fit(module, model_folder("llama"), 3)
        results.append({name: p for name, p in module.named_parameters() if p.requires_grad})
        assert getattr(module.model, "is_gradient_checkpointing", None) == gradient_checkpointing
    for name, weight in results[0].items():
        torch.testing.assert_close(weight, results[1][name], rtol=1e-5, atol=1e-6)


def test_p02_an_optimizer_that_finds_its_own_rate_is_judged_too(model_folder, caplog):
    module = make_module(Case("bert", "lora"), model_folder("bert"), optimizer=Adafactor)
    with caplog.at_level("INFO", "peftlit"):
        trainer = fit(module, model_folder("bert"), 5, TrainabilityGuard())
    assert learning_rate(trainer.optimizers[0]) is None
    assert "every trainable tensor learns" in caplog.text


def test_p02_warmup_steps_at_learning_rate_zero_are_not_judged(model_folder):
    folder, guard = model_folder("bert"), TrainabilityGuard(num_steps=2)
    module = make_module(Case("bert", "lora"), folder, scheduler=LinearWarmup(num_warmup_steps=3))
    contract_trainability(record(module, folder, guard))


def adapter_layer(module: SequenceClassification, kind: str) -> tuple[str, torch.nn.Module]:
    module.configure_model()
    return next((n, m) for n, m in module.named_modules() if n.endswith(f"{kind}.default"))


DETACHED = [Case("bert", "lora"), Case("llama", "lora", NF4), Case("qwen3", "lora", "int8"),
            Case("custom-code", "dora", NF4)]  # fmt: skip


@pytest.mark.parametrize("case", DETACHED, ids=str)
def test_p02_a_detached_adapter_stops_the_run_by_name(case, model_folder):
    folder = model_folder(case.family)
    module = make_module(case, folder)
    name, layer = adapter_layer(module, "lora_A")
    layer.register_forward_hook(lambda _, __, output: output.detach())
    with pytest.raises(TrainabilityError, match=rf"{name}\.weight trains but had no finite gradient"):
        fit(module, folder, 6, TrainabilityGuard())


def test_p02_a_loss_that_is_not_finite_stops_the_run(model_folder):
    folder = model_folder("bert")
    module = make_module(Case("bert", "lora"), folder)
    _, layer = adapter_layer(module, "lora_B")
    layer.register_forward_hook(lambda _, __, output: output * float("nan"))
    with pytest.raises(TrainabilityError, match="the loss is not finite"):
        fit(module, folder, 6, TrainabilityGuard())


def test_p02_a_trainable_tensor_that_the_optimizer_does_not_hold_stops_the_run(model_folder):
    folder = model_folder("bert")
    module = make_module(
        Case("bert", "lora"), folder, optimizer=lambda groups: torch.optim.AdamW(groups[0]["params"][:-1], lr=1e-2)
    )
    with pytest.raises(TrainabilityError, match="trains but did not move"):
        fit(module, folder, 6, TrainabilityGuard())


@pytest.mark.parametrize("case", [Case("bert", "lora"), Case("llama", "lora", NF4)], ids=str)
def test_p02_a_frozen_tensor_that_moves_stops_the_run_by_name(case, model_folder):
    class Meddle(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            next(p for n, p in pl_module.named_parameters() if "embed" in n).data += 1

    folder = model_folder(case.family)
    with pytest.raises(TrainabilityError, match=r"embed.* is frozen but changed"):
        fit(make_module(case, folder), folder, 6, Meddle(), TrainabilityGuard())


def test_p02_steps_that_the_float16_scaler_skips_are_not_judged(model_folder):
    folder, precision = model_folder("bert"), AdapterPrecision("16-mixed", "cpu")
    precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, backoff_factor=2.0**-5)
    fit(make_module(Case("bert", "lora"), folder), folder, 12, TrainabilityGuard(), precision=precision)
    assert precision.skipped_steps >= 4


@NEEDS_REPACKING_CPU
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_p02_goes_red_when_4bit_layers_may_repack(family, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "keep_4bit_trainable_on_cpu", lambda model: None)
    # at the usual hidden size of 32 the repacked kernel happens to crash; from 64 on it is silent
    folder, case = tiny.write_model(tmp_path / family, family, hidden_size=64), Case(family, "lora", NF4)
    with pytest.raises(AssertionError, match="had no gradient"):
        contract_trainability(record(make_module(case, folder), folder))
    with pytest.raises(TrainabilityError, match=r"lora_A.* had no finite gradient"):
        record(make_module(case, folder), folder, TrainabilityGuard())


def test_p02_goes_red_without_the_guard(model_folder, monkeypatch):
    monkeypatch.setattr(TrainabilityGuard, "on_train_batch_end", lambda *_: None)
    with pytest.raises(RED):
        test_p02_a_detached_adapter_stops_the_run_by_name(Case("bert", "lora"), model_folder)


def test_p02_the_guard_judges_once_and_lets_a_second_fit_be_judged_again(model_folder):
    folder, guard = model_folder("bert"), TrainabilityGuard(num_steps=2)
    module = make_module(Case("bert", "lora"), folder)
    fit(module, folder, 4, guard)
    _, layer = adapter_layer(module, "lora_A")
    layer.register_forward_hook(lambda _, __, output: output.detach())
    with pytest.raises(TrainabilityError):
        fit(module, folder, 4, guard)
