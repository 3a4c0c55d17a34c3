"""P2 and P3 for language models: what trains moves, what is frozen stays, dropout is on after each validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning import Callback

from peftlit.errors import TrainabilityError
from peftlit.modules.base import PeftModule
from peftlit.plugins import TrainabilityGuard
from tests.contracts.recorded import record
from tests.contracts.test_p02_trainability import contract_trainability
from tests.contracts.test_p03_dropout import contract_dropout
from tests.modules.cases import NF4
from tests.modules.language_cases import TWO_TOKENS, fit_language, lora, make_language_module

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

over_rows = pytest.mark.parametrize(
    ("kind", "family", "quantization", "options"),
    ROWS,
    ids=[" ".join([kind, family, quantization or "plain", *options]) for kind, family, quantization, options in ROWS],
)


def module_of(
    kind: Any, folder: Path, family: str, quantization: str | None, options: dict[str, Any], **more: Any
) -> Any:
    backbone = {"quantization": quantization, **more}
    return make_language_module(kind, folder, lora(family, lora_dropout=0.1), backbone=backbone, **options)


def fit_kind(kind: Any, options: dict[str, Any]) -> Any:
    words = {"words": options["words"]} if "words" in options else {}

    def fit(module: Any, folder: Path, steps: int, *callbacks: Callback, **arguments: Any) -> Any:
        return fit_language(module, kind, folder, steps, *callbacks, batch_options=words, **arguments)

    return fit


@over_rows
def test_p02_p03_what_trains_moves_in_training_mode_and_what_is_frozen_stays(
    kind, family, quantization, options, language_folder
):
    folder = language_folder(family)
    for checkpointing in (False, True):
        module = module_of(kind, folder, family, quantization, options, gradient_checkpointing=checkpointing)
        seen = record(module, folder, TrainabilityGuard(), fit=fit_kind(kind, options))
        contract_trainability(seen)
        contract_dropout(seen)


@pytest.mark.parametrize(("adapter", "quantization"), [("lora", NF4), ("none", None)])
def test_p02_a_new_head_moves_whole(adapter, quantization, model_folder):
    config = lora("bert") if adapter == "lora" else None
    module = make_language_module("masked", model_folder("bert"), config, backbone={"quantization": quantization})
    contract_trainability(record(module, model_folder("bert"), TrainabilityGuard(), fit=fit_kind("masked", {})))
    assert len(module.newly_initialized) == 5  # weight and bias of a layer and of its norm, and the bias of the words


@pytest.mark.parametrize(("kind", "family"), [("masked", "bert"), ("text", "llama"), ("labels", "gpt2")])
def test_p02_goes_red_when_the_adapter_is_detached(kind, family, language_folder):
    folder = language_folder(family)
    module = module_of(kind, folder, family, None, {})
    module.configure_model()
    layer = next(layer for name, layer in module.named_modules() if name.endswith("lora_A.default"))
    layer.register_forward_hook(lambda _, __, output: output.detach())
    with pytest.raises(TrainabilityError, match=r"lora_A.* trains but had no finite gradient"):
        record(module, folder, TrainabilityGuard(), fit=fit_kind(kind, {}))


@pytest.mark.parametrize(("kind", "family"), [("masked", "bert"), ("labels", "llama")])
def test_p03_goes_red_when_validation_does_not_switch_back(kind, family, language_folder, monkeypatch):
    monkeypatch.setattr(PeftModule, "on_validation_model_train", lambda self: None)
    folder = language_folder(family)
    seen = record(module_of(kind, folder, family, None, {}), folder, fit=fit_kind(kind, {}))
    with pytest.raises(AssertionError, match="in evaluation mode at batch"):
        contract_dropout(seen)
