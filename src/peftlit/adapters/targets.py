"""Check an adapter's target modules against a model before its weights are loaded."""

from __future__ import annotations

import difflib
import re

from peft import PeftConfig
from torch import nn

from peftlit.architecture import linear_layers
from peftlit.errors import AdapterError


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
    if isinstance(targets, str):
        absent = [] if any(re.fullmatch(targets, name) for name in names) else [targets]
    else:
        absent = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name in names)]
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
