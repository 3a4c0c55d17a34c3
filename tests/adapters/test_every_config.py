"""Every config class of peft, plain and quantized: it trains, or it is refused in one line before the first step."""

from __future__ import annotations

import inspect
from contextlib import suppress
from functools import partial

import peft
import pytest
import torch

from peftlit.backbone import Backbone
from peftlit.data import SST2
from peftlit.errors import PeftlitError
from peftlit.modules import SequenceClassification
from peftlit.plugins import TrainabilityGuard
from tests.modules.cases import make_trainer

CONFIGS = sorted(
    name
    for name, value in vars(peft).items()
    if inspect.isclass(value) and issubclass(value, peft.PeftConfig) and value is not peft.PeftConfig
)
NEEDED = {"target_modules": ["query", "value"], "total_step": 30, "num_virtual_tokens": 4, "block_size": 32}
ALWAYS = {"AdaLoraConfig", "HiraConfig", "IA3Config", "LoraConfig", "OFTConfig", "PromptTuningConfig", "VeraConfig"}
PLAIN = {"BOFTConfig", "LNTuningConfig", "LoHaConfig", "LoKrConfig", "PrefixTuningConfig", "PromptEncoderConfig"}
MUST_TRAIN = {"nf4-double": ALWAYS, None: ALWAYS | PLAIN}

SHARES = 4
"""Tests that the configs are dealt to, so that more than one process has some."""


def test_all_of_peft_is_covered() -> None:
    assert len(CONFIGS) > 40
    assert set(CONFIGS) >= MUST_TRAIN[None]


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
def test_each_trains_or_is_refused_in_one_line(share: int, model_folder, toy_data) -> None:
    folder = str(model_folder("bert"))
    data = SST2(data_dir=str(toy_data), tokenizer=folder, max_length=32, batch_size=8)
    data.setup("fit")
    for name in CONFIGS[share::SHARES]:
        wanted = inspect.signature(getattr(peft, name)).parameters
        options = {key: value for key, value in NEEDED.items() if key in wanted}
        for storage, must_train in MUST_TRAIN.items():
            config = None
            with suppress(ValueError):  # peft itself may refuse it for this task
                config = getattr(peft, name)(**options)
            refusal = "refused by peft" if config is None else refused(config, storage, folder, data)
            assert not (refusal and name in must_train), f"{name}, {storage}: {refusal}"
            assert "\n" not in refusal, f"{name}, {storage}: {refusal}"


def refused(config: peft.PeftConfig, storage: str | None, folder: str, data: SST2) -> str:
    """Train five steps, judged after three; return what is said where it is refused."""
    module = SequenceClassification(
        Backbone(folder, quantization=storage),
        config,
        optimizer=partial(torch.optim.AdamW, lr=1e-2),
        data=data.data_spec(),
    )
    try:
        module.check()
        trainer = make_trainer(5, TrainabilityGuard(num_steps=3), limit_val_batches=0)
        trainer.fit(module, data.train_dataloader())
    except PeftlitError as error:
        return str(error)
    return ""
