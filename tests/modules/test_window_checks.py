"""Neither validation nor a checkpoint may fall inside an accumulation window."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint

from peftlit.errors import ConfigError
from peftlit.modules.accumulation import check_nothing_inside_windows

EACH_EPOCH = {
    "fast_dev_run": 0, "is_global_zero": True, "loggers": [], "callbacks": [], "checkpoint_callbacks": [],
    "val_check_batch": float("inf"), "check_val_every_n_epoch": 1, "accumulate_grad_batches": 1,
    "num_training_batches": 10,
}  # fmt: skip
ON = {"check_val_every_n_epoch": None}
"""Count batches on over the ends of epochs."""
BY_TIME = {"checkpoint_callbacks": [ModelCheckpoint(train_time_interval=timedelta(minutes=5))]}


def trainer(**changes: object) -> Any:
    return SimpleNamespace(**{**EACH_EPOCH, **changes})


@pytest.mark.parametrize(
    ("window", "changes", "said"),
    [
        (2, {"val_check_batch": 4}, None),
        (4, {"val_check_batch": 10}, None),
        (3, {"val_check_batch": 3}, None),
        (2, {**ON, "num_training_batches": 8, "val_check_batch": 12}, None),
        (1, BY_TIME, None),
        (2, {"val_check_batch": 3}, "every 3 batches falls inside a window of 2 .*; use a multiple of 2"),
        (2, {**ON, "num_training_batches": 7, "val_check_batch": 6}, "windows of 2 .* do not fill one of 7"),
        (2, {**ON, "num_training_batches": 8, "val_check_batch": 9}, "every 9 batches falls"),
        (2, {"val_check_batch": None}, "a time would fall inside windows of 2 batches"),
        (1, {"val_check_batch": 2, "callbacks": [GradientAccumulationScheduler({0: 1, 1: 4})]},
         "every 2 batches falls inside a window of 4"),
        (2, BY_TIME, "train_time_interval: would save inside"),
        (1, {"checkpoint_callbacks": [ModelCheckpoint(save_on_exception=True)]},
         "save_on_exception: an error leaves a step half done"),
    ],
)  # fmt: skip
def test_they_may_at_the_end_of_a_window_alone(window, changes, said) -> None:
    checked = trainer(accumulate_grad_batches=window, **changes)
    if said is None:
        check_nothing_inside_windows(checked)
        return
    with pytest.raises(ConfigError, match=said):
        check_nothing_inside_windows(checked)
