"""Neither validation nor a checkpoint may fall inside an accumulation window."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint

from peftlit.errors import ConfigError
from peftlit.modules.accumulation import check_nothing_inside_windows

INTERVAL = timedelta(minutes=5)
ON = {"check_val_every_n_epoch": None}
"""Count batches on over the ends of epochs."""


def trainer(**changes: object) -> Any:
    return SimpleNamespace(
        **{
            "fast_dev_run": 0,
            "is_global_zero": True,
            "loggers": [],
            "callbacks": [],
            "checkpoint_callbacks": [],
            "val_check_batch": float("inf"),
            "check_val_every_n_epoch": 1,
            "accumulate_grad_batches": 1,
            "num_training_batches": 10,
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("window", "changes"),
    [
        (2, {"val_check_batch": 4}),
        (4, {"val_check_batch": 10}),
        (3, {"val_check_batch": 3}),
        (2, {**ON, "num_training_batches": 8, "val_check_batch": 12}),
        (1, {"checkpoint_callbacks": [ModelCheckpoint(train_time_interval=INTERVAL)]}),
    ],
)
def test_at_the_end_of_a_window_they_may(window, changes) -> None:
    check_nothing_inside_windows(trainer(accumulate_grad_batches=window, **changes))


@pytest.mark.parametrize(
    ("window", "changes", "said"),
    [
        (2, {"val_check_batch": 3}, "every 3 batches falls inside a window of 2 .*; use a multiple of 2"),
        (
            2,
            {**ON, "num_training_batches": 7, "val_check_batch": 6},
            "windows of 2 .* do not fill one of 7",
        ),
        (2, {**ON, "num_training_batches": 8, "val_check_batch": 9}, "every 9 batches falls"),
        (2, {"val_check_batch": None}, "a time would fall inside windows of 2 batches"),
        (
            1,
            {"val_check_batch": 2, "callbacks": [GradientAccumulationScheduler({0: 1, 1: 4})]},
            "every 2 batches falls inside a window of 4",
        ),
        (
            2,
            {"checkpoint_callbacks": [ModelCheckpoint(train_time_interval=INTERVAL)]},
            "train_time_interval: would save inside",
        ),
        (
            1,
            {"checkpoint_callbacks": [ModelCheckpoint(save_on_exception=True)]},
            "save_on_exception: an error leaves a step half done",
        ),
    ],
)
def test_inside_a_window_they_are_refused(window, changes, said) -> None:
    with pytest.raises(ConfigError, match=said):
        check_nothing_inside_windows(trainer(accumulate_grad_batches=window, **changes))
