"""P17: killed anywhere and resumed, a run sees the same rows, the same losses, and ends in the same bits."""

from __future__ import annotations

from collections.abc import Callable
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


def lose_the_place() -> None:
    TextDataModule.load_state_dict = lambda self, state: None  # type: ignore[method-assign]


def lose_the_random_states() -> None:
    random_states.restore = lambda states: None


def lose_the_validation() -> None:
    resumption._validation_is_due = lambda trainer: False


def save_a_step_again_inside_the_next_window() -> None:
    whole = Resumption.on_train_batch_start

    def start(self: Any, trainer: Any, *arguments: Any) -> None:
        before = [callback._last_global_step_saved for callback in trainer.checkpoint_callbacks[:2]]
        whole(self, trainer, *arguments)
        for callback, step in zip(trainer.checkpoint_callbacks, before, strict=False):
            callback._last_global_step_saved = step

    Resumption.on_train_batch_start = start  # type: ignore[method-assign]


def take_the_states_of_a_validation() -> None:
    """Save the random states as they are while a validation is done anew, before they are put back."""
    whole = Resumption.state_dict

    def state_dict(self: Any) -> Any:
        loaded, self._loaded = self._loaded, None
        try:
            return whole(self)
        finally:
            self._loaded = loaded

    Resumption.state_dict = state_dict  # type: ignore[method-assign]


BREAKERS = [
    lose_the_place, lose_the_random_states, lose_the_validation, save_a_step_again_inside_the_next_window,
    take_the_states_of_a_validation,
]  # fmt: skip


@pytest.mark.parametrize("breaker", BREAKERS)
def test_p17_goes_red_without(breaker, whole, base, tmp_path) -> None:
    with pytest.raises(AssertionError):
        contract_killed_and_resumed_ends_the_same(whole("float32", 1), tmp_path / "killed", base, "float32", 1, breaker)


def lose_the_ranks() -> None:
    AdaLora.restore_state = lambda self, model, state: None  # type: ignore[method-assign]


def test_p17_goes_red_without_the_ranks_given_out(whole, base, tmp_path) -> None:
    kind = "float32, AdaLoRA"
    with pytest.raises(AssertionError):
        contract_killed_and_resumed_ends_the_same(whole(kind, 1), tmp_path / "killed", base, kind, 1, lose_the_ranks)
