"""Check an adapter's target modules against a model before its weights are loaded."""

from __future__ import annotations

import difflib
import re

from peft import PeftConfig
from torch import nn

from peftlit.architecture import linear_layers
from peftlit.errors import AdapterError


def is_target(name: str, adapter: PeftConfig) -> bool:
    """Tell whether an adapter's target modules take in a module, the way peft reads them.

    Args:
        name: The module's full name.
        adapter: Any peft config.
    """
    targets: str | list[str] = getattr(adapter, "target_modules", None) or []
    if targets == "all-linear":
        return True
    if isinstance(targets, str):
        return _matches(name, targets, pattern=True)
    return any(_matches(name, target, pattern=False) for target in targets)


def _matches(name: str, target: str, *, pattern: bool) -> bool:
    return bool(re.fullmatch(target, name)) if pattern else name == target or name.endswith(f".{target}")


def check_targets(adapter: PeftConfig, model: nn.Module, model_name: str) -> None:
    """Refuse target modules that match nothing, each name by itself.

    peft accepts a list as soon as one of its names matches, and then leaves the others out silently.

    Args:
        adapter: Any peft config; one without ``target_modules`` passes.
        model: The model, on the meta device or loaded.
        model_name: What to call the model in the message.

    Raises:
        AdapterError: Naming the target, the nearest names, and the model's linear layers.
    """
    targets = getattr(adapter, "target_modules", None)
    if not targets or targets == "all-linear":
        return
    names = [name for name, _ in model.named_modules() if name]
    wanted = [targets] if isinstance(targets, str) else targets
    absent = [
        target
        for target in wanted
        if not any(_matches(name, target, pattern=isinstance(targets, str)) for name in names)
    ]
    if not absent:
        return
    linear = linear_layers(model)
    candidates = sorted({name.rsplit(".", 1)[-1] for name in names})
    near = difflib.get_close_matches(sorted(absent)[0], candidates, n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise AdapterError(
        f"adapter.target_modules: {', '.join(map(repr, sorted(absent)))} matches no module of {model_name}; "
        f"{hint}its linear layers are {', '.join(linear)}"
    )
