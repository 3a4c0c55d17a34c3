"""Check an adapter's target modules against a model before its weights are loaded."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from peft import PeftConfig
from torch import nn

from peftlit.backbone.architecture import linear_layers
from peftlit.errors import AdapterError


def is_target(name: str, adapter: PeftConfig) -> bool:
    """Tell whether an adapter's target modules take in a module of this full name, the way peft reads them."""
    targets = getattr(adapter, "target_modules", None) or []
    return targets == "all-linear" or _matches(name, targets)


def is_inside(name: str, modules: Sequence[str]) -> bool:
    """Tell whether a name is that of one of the modules, or of a part of one."""
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def _matches(name: str, targets: str | Iterable[str]) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(f".{name}".endswith(f".{target}") for target in targets)


def check_targets(adapter: PeftConfig, model: nn.Module, model_name: str, excluded_modules: Sequence[str] = ()) -> None:
    """Refuse target modules that match nothing, or nothing that may be adapted, each name by itself.

    peft accepts a list as soon as one of its names matches, and then leaves the others out silently.

    Args:
        adapter: Any peft config; one without ``target_modules`` passes.
        model: The model, on the meta device or loaded.
        model_name: What to call the model in the message.
        excluded_modules: Names of modules that must not be adapted.

    Raises:
        AdapterError: Naming the target, the nearest names, and the model's linear layers.
    """
    targets = getattr(adapter, "target_modules", None)
    if not targets or targets == "all-linear":
        return
    names = [name for name, _ in model.named_modules() if name]
    each = {targets: targets} if isinstance(targets, str) else {target: [target] for target in sorted(targets)}
    found = {target: [name for name in names if _matches(name, alone)] for target, alone in each.items()}
    linear = ", ".join(linear_layers(model))
    if absent := [target for target, matched in found.items() if not matched]:
        near = difflib.get_close_matches(absent[0], sorted({name.rsplit(".", 1)[-1] for name in names}), n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise AdapterError(
            f"adapter.target_modules: {', '.join(map(repr, absent))} matches no module of {model_name}; "
            f"{hint}its linear layers are {linear}"
        )
    for target, matched in found.items():
        if all(is_inside(name, excluded_modules) for name in matched):
            raise AdapterError(
                f"adapter.target_modules: {target!r} names parts of {' and '.join(excluded_modules)} only, which stays "
                f"as it is; name other layers (the model's linear layers are {linear})"
            )
