"""Every config class of peft, plain and quantized: it trains, or it is refused in one line before the first step."""

from __future__ import annotations

import inspect
from functools import partial

import peft
import pytest
import torch
from lightning import Trainer

from peftlit.backbone import Backbone
from peftlit.data import SST2
from peftlit.errors import PeftlitError
from peftlit.modules import SequenceClassification
from peftlit.plugins import TrainabilityGuard

CONFIGS = sorted(
    name
    for name, value in vars(peft).items()
    if inspect.isclass(value) and issubclass(value, peft.PeftConfig) and value is not peft.PeftConfig
)
NEEDED = {"target_modules": ["query", "value"], "total_step": 30, "num_virtual_tokens": 4, "block_size": 32}
MUST_TRAIN_QUANTIZED = {"AdaLoraConfig", "HiraConfig", "IA3Config", "LoraConfig", "OFTConfig", "VeraConfig"}
MUST_TRAIN = {
    "nf4-double": MUST_TRAIN_QUANTIZED | {"PromptTuningConfig"},
    "plain": MUST_TRAIN_QUANTIZED
    | {"BOFTConfig", "LNTuningConfig", "LoHaConfig", "LoKrConfig"}
    | {"PrefixTuningConfig", "PromptEncoderConfig", "PromptTuningConfig"},
}


def test_all_of_peft_is_covered() -> None:
    assert len(CONFIGS) > 40
    assert set(CONFIGS) >= MUST_TRAIN["plain"] | MUST_TRAIN["nf4-double"]


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["plain", "nf4-double"])
@pytest.mark.parametrize("name", CONFIGS)
def test_it_trains_or_is_refused_in_one_line(name: str, storage: str, model_folder, toy_data) -> None:
    config_class = getattr(peft, name)
    wanted = inspect.signature(config_class).parameters
    folder = str(model_folder("bert"))
    data = SST2(data_dir=str(toy_data), tokenizer=folder, max_length=32, batch_size=8)
    try:
        config = config_class(**{key: value for key, value in NEEDED.items() if key in wanted})
    except ValueError as error:
        pytest.skip(f"peft itself refuses it for this task: {error}")
    module = SequenceClassification(
        Backbone(folder, quantization=None if storage == "plain" else "nf4-double"),
        config,
        optimizer=partial(torch.optim.AdamW, lr=1e-2),
        data=data.data_spec(),
    )
    trainer = Trainer(
        max_steps=8, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, callbacks=[TrainabilityGuard()],
    )  # fmt: skip
    refusal = ""
    try:
        module.check()
        trainer.fit(module, datamodule=data)
    except PeftlitError as error:
        refusal = str(error)
    assert not (refusal and name in MUST_TRAIN[storage]), refusal
    assert "\n" not in refusal
