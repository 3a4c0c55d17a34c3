"""P17: killed anywhere and resumed, a run sees the same rows, the same losses, and ends in the same bits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from peftlit.adapters.adalora import AdaLora
from peftlit.checkpoint import random_states
from peftlit.checkpoint import resume as resumption
from peftlit.data import TextDataModule
from peftlit.plugins import Resumption
from tests.contracts import killed

pytestmark = pytest.mark.slow

RANKS = {"init_r": 6, "target_r": 2, "total_step": 12, "tinit": 2, "tfinal": 2, "target_modules": ["query", "value"]}
KINDS = {
    **killed.STORED,
    "float32, AdaLoRA": {
        "trainer": {"precision": "32-true"},
        "adapter": {"class_path": "peft.AdaLoraConfig", "init_args": RANKS},
    },
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, base) -> Callable[[str, int], Path]:
    """Return a function that gives an uninterrupted run of a kind, made once."""
    made: dict[tuple[str, int], Path] = {}

    def get(stored: str, ranks: int) -> Path:
        if (stored, ranks) not in made:
            folder = made[stored, ranks] = tmp_path_factory.mktemp("whole") / "run"
            killed.write(folder, base, KINDS[stored], ranks)
            assert killed.run(folder, ranks=ranks) == 0, (folder / "said.txt").read_text()
        return made[stored, ranks]

    return get


def contract_killed_and_resumed_ends_the_same(
    whole: Path, folder: Path, base: Path, stored: str, ranks: int, prepare: Callable[[], None] | None = None
) -> None:
    odd = killed.killed_in_each_position(whole, folder, base, KINDS[stored], ranks, prepare)
    assert odd == {position: [] for position in killed.positions(ranks)}


@pytest.mark.parametrize(("stored", "ranks"), [*((stored, 1) for stored in KINDS), ("NF4, 8-bit AdamW", 2)])
def test_p17_killed_and_resumed_is_as_if_never_interrupted(stored, ranks, whole, base, tmp_path) -> None:
    contract_killed_and_resumed_ends_the_same(whole(stored, ranks), tmp_path / "killed", base, stored, ranks)


on_train_batch_start, state_dict = Resumption.on_train_batch_start, Resumption.state_dict


def save_a_step_again(self: Any, trainer: Any, *arguments: Any) -> None:
    before = [callback._last_global_step_saved for callback in trainer.checkpoint_callbacks[:2]]
    on_train_batch_start(self, trainer, *arguments)
    for callback, step in zip(trainer.checkpoint_callbacks, before, strict=False):
        callback._last_global_step_saved = step


def take_states_as_they_are(self: Any) -> Any:
    loaded, self._loaded = self._loaded, None
    try:
        return state_dict(self)
    finally:
        self._loaded = loaded


BREAKERS: dict[str, tuple[Any, str, Any]] = {
    "the place in the epoch": (TextDataModule, "load_state_dict", lambda self, state: None),
    "the random states": (random_states, "restore", lambda states: None),
    "the validation that is due": (resumption, "_validation_is_due", lambda trainer: False),
    "the steps that were saved": (Resumption, "on_train_batch_start", save_a_step_again),  # inside the next window
    "the states before a validation": (Resumption, "state_dict", take_states_as_they_are),  # while it is done anew
}


def test_p17_goes_red_without_the_ranks_given_out(whole, base, tmp_path) -> None:
    kind, lost = "float32, AdaLoRA", partial(setattr, AdaLora, "restore_state", lambda self, model, state: None)
    with pytest.raises(AssertionError):
        contract_killed_and_resumed_ends_the_same(whole(kind, 1), tmp_path / "killed", base, kind, 1, lost)


@pytest.mark.parametrize("guard", BREAKERS)
def test_p17_goes_red_without(guard, whole, base, tmp_path) -> None:
    lost = partial(setattr, *BREAKERS[guard])  # in the child alone
    with pytest.raises(AssertionError):
        contract_killed_and_resumed_ends_the_same(whole("float32", 1), tmp_path / "killed", base, "float32", 1, lost)
