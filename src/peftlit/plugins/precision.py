"""Which precision the Trainer computes in: chosen once by the hardware, and logged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, cast, get_args

from lightning import LightningModule
from lightning.pytorch.plugins import MixedPrecision, Precision

from peftlit.backbone.hardware import current_device_type, has_bfloat16
from peftlit.errors import ConfigError

log = logging.getLogger(__name__)

PrecisionName = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]

ChosenPrecision = Literal["32-true", "bf16-mixed", "16-mixed"]

_ALIASES = {"None": "auto", "32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def choose_precision(asked: str | int | None, device: str) -> ChosenPrecision:
    """Turn a ``trainer.precision`` into that of a device; None and ``auto`` are the best that it has.

    Raises:
        ConfigError: The device has no bfloat16, or the precision would leave trainables in 16 bits.
    """
    name = _ALIASES.get(str(asked), str(asked))
    if name not in get_args(PrecisionName):
        raise ConfigError(
            f"trainer.precision: got {asked!r}; what trains stays in float32, so choose bf16-mixed, 16-mixed, 32-true "
            "or auto (backbone.dtype sets how frozen weights are stored)"
        )
    if name == "bf16-mixed" and not has_bfloat16(device):
        raise ConfigError(
            f"trainer.precision: bf16-mixed asked for, but this {device} has no bfloat16; "
            f"use {'32-true' if device == 'cpu' else '16-mixed'}, or leave precision out"
        )
    if name == "auto":
        if has_bfloat16(device):
            return "bf16-mixed"
        return "32-true" if device == "cpu" else "16-mixed"
    return cast(ChosenPrecision, name)


class AdapterPrecision(MixedPrecision):
    """Autocast in bfloat16 or float16 around float32 trainables, with a loss scaler for float16.

    Args:
        precision: ``auto`` = bf16-mixed where the device has bfloat16, else 16-mixed, else (plain CPUs) 32-true.
        device: A torch device type; unset = the one the Trainer would choose.
    """

    def __init__(self, precision: PrecisionName = "auto", device: str | None = None) -> None:
        device = device or current_device_type()
        chosen = choose_precision(precision, device)
        log.info("precision: %s on %s%s", chosen, device, " (chosen by the hardware)" * (precision == "auto"))
        if chosen == "32-true":
            Precision.__init__(self)
            self.precision, self.device, self.scaler = chosen, device, None
        else:
            super().__init__(chosen, device)
        self.skipped_steps = 0

    @contextmanager
    def forward_context(self) -> Generator[None, None, None]:
        """Autocast, or nothing in float32."""
        with nullcontext() if self.precision == "32-true" else super().forward_context():
            yield

    def optimizer_step(  # type: ignore[override]
        self, optimizer: Any, model: LightningModule, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        """Step, and count the steps that the scaler skips because a gradient overflowed."""
        before = self.scaler.get_scale() if self.scaler is not None else 0.0
        result = super().optimizer_step(optimizer, model, closure, **kwargs)
        if self.scaler is not None and self.scaler.get_scale() < before:
            self.skipped_steps += 1
            said = "float16 overflow: optimizer step %d in all skipped, loss scale now %g"
            log.info(said, self.skipped_steps, self.scaler.get_scale())
        return result

    def state_dict(self) -> dict[str, Any]:
        """Return the scaler's state and the count of skipped steps."""
        return {**super().state_dict(), "skipped_steps": self.skipped_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        state = dict(state_dict)
        self.skipped_steps = state.pop("skipped_steps", 0)
        super().load_state_dict(state)
