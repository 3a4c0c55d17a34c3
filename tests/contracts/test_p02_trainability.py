"""P2: after a few optimizer steps every trainable tensor had a finite gradient and moved, and no frozen one did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning import Callback
from transformers import Adafactor

from peftlit.backbone import weights
from peftlit.errors import TrainabilityError
from peftlit.modules.base import PeftModule
from peftlit.modules.optim import LinearWarmup, learning_rate
from peftlit.plugins import AdapterPrecision, TrainabilityGuard
from tests import tiny
from tests.contracts.recorded import Recorded, record
from tests.contracts.test_p03_dropout import contract_dropout
from tests.modules.cases import NF4, RED, Case, fit, make_module
from tests.modules.language_cases import TWO_TOKENS, fit_language, lora, make_language_module

LORA = Case("bert", "lora")


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
    folder, results = model_folder("llama"), []
    for gradient_checkpointing in (False, True):
        adapter = Case("llama", "lora").peft(lora_dropout=0.0)
        backbone = {"gradient_checkpointing": gradient_checkpointing}
        module = make_module(Case("llama", "lora", NF4), folder, backbone=backbone, adapter=adapter)
        fit(module, folder, 3)
        results.append({name: p for name, p in module.named_parameters() if p.requires_grad})
        assert getattr(module.model, "is_gradient_checkpointing", None) == gradient_checkpointing
    for name, weight in results[0].items():
        torch.testing.assert_close(weight, results[1][name], rtol=1e-5, atol=1e-6)


def test_p02_an_optimizer_that_finds_its_own_rate_is_judged_too(bert, caplog):
    with caplog.at_level("INFO", "peftlit"):
        trainer = fit(make_module(LORA, bert, optimizer=Adafactor), bert, 5, TrainabilityGuard())
    assert learning_rate(trainer.optimizers[0]) is None
    assert "every trainable tensor learns" in caplog.text


def test_p02_warmup_steps_at_learning_rate_zero_are_not_judged(bert):
    module = make_module(LORA, bert, scheduler=LinearWarmup(num_warmup_steps=3))
    contract_trainability(record(module, bert, TrainabilityGuard(num_steps=2)))


def change_output(module: Any, kind: str, change: Callable[[torch.Tensor], torch.Tensor]) -> str:
    """Change what a layer of the adapter puts out; return the layer's name."""
    module.configure_model()
    name, layer = next((n, m) for n, m in module.named_modules() if n.endswith(f"{kind}.default"))
    layer.register_forward_hook(lambda _, __, output: change(output))
    return name


def detach(module: Any) -> str:
    return change_output(module, "lora_A", torch.Tensor.detach)


DETACHED = [LORA, Case("llama", "lora", NF4), Case("qwen3", "lora", "int8"), Case("custom-code", "dora", NF4)]


@pytest.mark.parametrize("case", DETACHED, ids=str)
def test_p02_a_detached_adapter_stops_the_run_by_name(case, model_folder):
    folder = model_folder(case.family)
    module = make_module(case, folder)
    name = detach(module)
    with pytest.raises(TrainabilityError, match=rf"{name}\.weight trains but had no finite gradient"):
        fit(module, folder, 6, TrainabilityGuard())


def test_p02_a_loss_that_is_not_finite_stops_the_run(bert):
    module = make_module(LORA, bert)
    change_output(module, "lora_B", lambda output: output * float("nan"))
    with pytest.raises(TrainabilityError, match="the loss is not finite"):
        fit(module, bert, 6, TrainabilityGuard())


def test_p02_a_trainable_tensor_that_the_optimizer_does_not_hold_stops_the_run(bert):
    def all_but_one(groups: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups[0]["params"][:-1], lr=1e-2)

    with pytest.raises(TrainabilityError, match="trains but did not move"):
        fit(make_module(LORA, bert, optimizer=all_but_one), bert, 6, TrainabilityGuard())


@pytest.mark.parametrize("case", [LORA, Case("llama", "lora", NF4)], ids=str)
def test_p02_a_frozen_tensor_that_moves_stops_the_run_by_name(case, model_folder):
    class Meddle(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            next(p for n, p in pl_module.named_parameters() if "embed" in n).data += 1

    folder = model_folder(case.family)
    with pytest.raises(TrainabilityError, match=r"embed.* is frozen but changed"):
        fit(make_module(case, folder), folder, 6, Meddle(), TrainabilityGuard())


def test_p02_steps_that_the_float16_scaler_skips_are_not_judged(bert):
    precision = AdapterPrecision("16-mixed", "cpu")
    precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, backoff_factor=2.0**-5)
    fit(make_module(LORA, bert), bert, 12, TrainabilityGuard(), precision=precision)
    assert precision.skipped_steps >= 4


def test_p02_the_guard_judges_once_and_lets_a_second_fit_be_judged_again(bert):
    module, guard = make_module(LORA, bert), TrainabilityGuard(num_steps=2)
    fit(module, bert, 4, guard)
    detach(module)
    with pytest.raises(TrainabilityError):
        fit(module, bert, 4, guard)


@pytest.mark.skipif(
    not torch.cpu._is_avx512_bf16_supported(), reason="bitsandbytes repacks 4-bit weights on AVX512-BF16 CPUs only"
)
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
        test_p02_a_detached_adapter_stops_the_run_by_name(LORA, model_folder)


# Language models; P3, too ---------------------------------------------------------------------------------------------

ROWS: list[tuple[Any, str, str | None, dict[str, Any]]] = [
    ("masked", "bert", None, {}),
    ("masked", "bert", NF4, {}),
    ("masked", "modernbert", NF4, {}),
    ("masked", "deberta-v3", None, {}),
    ("text", "llama", NF4, {}),
    ("text", "gpt2", None, {}),
    ("labels", "llama", None, {"words": TWO_TOKENS}),
    ("labels", "gpt2", NF4, {}),
    ("labels", "llama", NF4, {"label_loss": "completion"}),
]
"""What is learned, of which family, stored how, with which settings."""


def record_language(kind: Any, module: Any, folder: Any, *callbacks: Any, words: Any = None) -> Recorded:
    def fit(module: Any, folder: Any, *arguments: Any, **named: Any) -> Any:
        return fit_language(module, kind, folder, *arguments, **named, batch_options={"words": words} if words else {})

    return record(module, folder, *callbacks, fit=fit)


def module_of(kind: Any, folder: Any, family: str, options: dict[str, Any] | None = None, **backbone: Any) -> Any:
    return make_language_module(kind, folder, lora(family, lora_dropout=0.1), backbone=backbone, **(options or {}))


@pytest.mark.parametrize(("kind", "family", "quantization", "options"), ROWS)
def test_p02_p03_what_trains_moves_in_training_mode_and_what_is_frozen_stays(
    kind, family, quantization, options, language_folder
):
    folder = language_folder(family)
    for checkpointing in (False, True):
        stored = {"quantization": quantization, "gradient_checkpointing": checkpointing}
        module = module_of(kind, folder, family, options, **stored)
        seen = record_language(kind, module, folder, TrainabilityGuard(), words=options.get("words"))
        contract_trainability(seen)
        contract_dropout(seen)


@pytest.mark.parametrize(("adapter", "quantization"), [(lora("bert"), NF4), (None, None)], ids=["lora", "none"])
def test_p02_a_new_head_moves_whole(adapter, quantization, bert):
    module = make_language_module("masked", bert, adapter, backbone={"quantization": quantization})
    contract_trainability(record_language("masked", module, bert, TrainabilityGuard()))
    assert len(module.newly_initialized) == 5  # weight and bias of a layer and of its norm, and the bias of the words


@pytest.mark.parametrize(("kind", "family"), [("masked", "bert"), ("text", "llama"), ("labels", "gpt2")])
def test_p02_goes_red_when_the_adapter_is_detached(kind, family, language_folder):
    module = module_of(kind, language_folder(family), family)
    detach(module)
    with pytest.raises(TrainabilityError, match=r"lora_A.* trains but had no finite gradient"):
        record_language(kind, module, language_folder(family), TrainabilityGuard())


@pytest.mark.parametrize(("kind", "family"), [("masked", "bert"), ("labels", "llama")])
def test_p03_goes_red_when_validation_does_not_switch_back(kind, family, language_folder, monkeypatch):
    monkeypatch.setattr(PeftModule, "on_validation_model_train", lambda self: None)
    seen = record_language(kind, module_of(kind, language_folder(family), family), language_folder(family))
    with pytest.raises(AssertionError, match="in evaluation mode at batch"):
        contract_dropout(seen)
