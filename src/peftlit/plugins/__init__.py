"""What is handed to the Trainer: precision, optimizer, guards, progress, and the format of ``checkpoint/``."""

from typing import TYPE_CHECKING, Any

from peftlit.checkpoint.format import AdapterCheckpointIO
from peftlit.checkpoint.resume import Resumption
from peftlit.plugins.nan_guard import FiniteGuard
from peftlit.plugins.precision import AdapterPrecision
from peftlit.plugins.progress import LineProgress, RichProgress
from peftlit.plugins.stop_on_signal import StopOnSignal
from peftlit.plugins.trainability import TrainabilityGuard

if TYPE_CHECKING:
    from peftlit.plugins.paged_adamw import PagedAdamW8bit

__all__ = [
    "AdapterCheckpointIO",
    "AdapterPrecision",
    "FiniteGuard",
    "LineProgress",
    "PagedAdamW8bit",
    "Resumption",
    "RichProgress",
    "StopOnSignal",
    "TrainabilityGuard",
]


def __getattr__(name: str) -> Any:
    """Import the bitsandbytes optimizer when it is asked for, so that all else works without bitsandbytes."""
    if name == "PagedAdamW8bit":
        from peftlit.plugins.paged_adamw import PagedAdamW8bit

        return PagedAdamW8bit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
