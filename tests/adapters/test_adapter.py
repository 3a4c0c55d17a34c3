"""Which method stands for which adapter, and what a method is asked while it trains."""

from __future__ import annotations

from typing import Any

import pytest
from peft import AdaLoraConfig, AdamssConfig, LoraConfig, PrefixTuningConfig, PromptTuningConfig, ShadowConfig
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


@pytest.mark.parametrize(
    ("adapter", "kind", "virtual_tokens", "in_row"),
    [
        (None, HeadOnly, 0, False),
        (Watched(), Watched, 0, False),
        (LoraConfig(), PeftMethod, 0, False),
        (AdaLoraConfig(total_step=9), AdaLora, 0, False),
        (PromptTuningConfig(num_virtual_tokens=3), PeftMethod, 3, True),
        (PrefixTuningConfig(num_virtual_tokens=4), PeftMethod, 4, False),  # keys and values
    ],
)
def test_each_adapter_has_its_method_and_virtual_tokens(adapter, kind, virtual_tokens, in_row):
    method = method_of(adapter)
    assert type(method) is kind
    assert (method.virtual_tokens, method.virtual_tokens_in_row) == (virtual_tokens, in_row)


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        (PromptTuningConfig(), r"adapter\.num_virtual_tokens: PromptTuningConfig needs it; set a number"),
        (PrefixTuningConfig(), r"adapter\.num_virtual_tokens: PrefixTuningConfig needs it; set a number"),
        (ShadowConfig(target_modules=["query"]), r"auxiliary_loss_weight: got 0\.05.*set auxiliary_loss_weight: 0"),
        (AdaLoraConfig(target_modules=["query"], init_r=4, target_r=4, total_step=9),
         r"adapter\.target_r: got 4 with init_r 4.*larger init_r"),
        (AdamssConfig(target_modules=["query"], use_asa=True), r"adapter\.use_asa: .*set use_asa: false"),
    ],
)  # fmt: skip
def test_what_could_not_train_is_refused_before_weights_load(adapter, said, model_folder):
    with pytest.raises(AdapterError, match=said):
        make_module(Case("bert", "lora"), model_folder("bert"), adapter=adapter).check()


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
