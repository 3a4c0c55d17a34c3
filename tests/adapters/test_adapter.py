"""Which method stands for which adapter, and what a method is asked while it trains."""

from __future__ import annotations

from typing import Any

import pytest
from peft import AdaLoraConfig, LoraConfig, PrefixTuningConfig, PromptTuningConfig
from torch import Tensor, nn

from peftlit.adapters import FullFineTuning, method_of
from peftlit.adapters.adalora import AdaLora
from peftlit.adapters.head_only import HeadOnly
from peftlit.adapters.peft_method import PeftMethod
from peftlit.errors import AdapterError
from tests.modules.cases import Case, loader, make_module, make_trainer


class Watched(FullFineTuning):
    """A method of a user's own that writes down what it is asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def before_training(self, num_steps: float) -> None:
        self.asked.append(("training", num_steps))

    def penalty(self, model: nn.Module) -> Tensor:
        self.asked.append("penalty")
        return 0.1 * sum(weight.square().sum() for weight in model.parameters())

    def after_optimizer_step(self, model: nn.Module, step: int) -> None:
        self.asked.append(step)

    def state(self, model: nn.Module) -> dict[str, Any]:
        return {"asked": list(self.asked)}

    def restore_state(self, model: nn.Module, state: dict[str, Any]) -> None:
        self.asked = state["asked"]


def test_each_adapter_has_its_method():
    assert type(method_of(None)) is HeadOnly
    assert type(method_of(LoraConfig())) is PeftMethod
    assert type(method_of(AdaLoraConfig(total_step=9))) is AdaLora
    own = Watched()
    assert method_of(own) is own


def test_virtual_tokens_stand_in_the_row_unless_they_are_keys_and_values():
    for adapter, tokens, in_row in (
        (LoraConfig(), 0, False),
        (PromptTuningConfig(num_virtual_tokens=3), 3, True),
        (PrefixTuningConfig(num_virtual_tokens=4), 4, False),
    ):
        method = method_of(adapter)
        assert (method.virtual_tokens, method.virtual_tokens_in_row) == (tokens, in_row)


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
def test_a_missing_number_of_virtual_tokens_is_refused_before_weights_load(kind, model_folder):
    module = make_module(Case("bert", "lora"), model_folder("bert"), adapter=kind())
    with pytest.raises(AdapterError, match=rf"adapter\.num_virtual_tokens: {kind.__name__} needs it; set a number"):
        module.check()


def test_hooks_see_optimizer_steps_and_no_micro_batches(model_folder):
    folder = model_folder("bert")
    module = make_module(Case("bert", "full"), folder, adapter=Watched())
    make_trainer(3, accumulate_grad_batches=2).fit(module, loader(folder, 6))
    assert module.method.asked == [("training", 3), "penalty", 1, "penalty", 2, "penalty", 3]
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    other = make_module(Case("bert", "full"), folder, adapter=Watched())
    other.configure_model()
    other.on_load_checkpoint(checkpoint)
    assert other.method.asked == module.method.asked
