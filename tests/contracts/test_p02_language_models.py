"""P2 and P3 for language models: what trains moves, what is frozen stays, dropout is on after each validation."""

from __future__ import annotations

from typing import Any

import pytest

from peftlit.errors import TrainabilityError
from peftlit.modules.base import PeftModule
from peftlit.plugins import TrainabilityGuard
from tests.contracts.recorded import Recorded, record
from tests.contracts.test_p02_trainability import contract_trainability, detach
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
