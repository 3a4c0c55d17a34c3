"""What a module puts into a checkpoint, and what it refuses to take out of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peftlit.digest import commit_of, config_sha256, weights_sha256
from peftlit.errors import CheckpointError

if TYPE_CHECKING:
    from peftlit.modules.base import PeftModule

BACKBONE = "backbone"
"""Key of a checkpoint under which is written which frozen weights belong to it."""

ANCHOR = "window_anchor"
"""Key of a checkpoint under which is written what losses are divided by until a window closes."""

METHOD_STATE = "rank_allocation"
"""Key of a checkpoint for the adapter method's state, if it has one; named after AdaLoRA's, which was the first."""


def keep_trainables(module: PeftModule, checkpoint: dict[str, Any]) -> None:
    """Leave only the parameters that train, and name the weights that do not.

    Args:
        module: The module.
        checkpoint: What Lightning is about to save.

    Raises:
        CheckpointError: Gradients are under way that no checkpoint holds.
    """
    if module.window.is_open:
        raise CheckpointError(
            "a checkpoint was asked for inside an accumulation window, whose gradients it would lose; save after an "
            "optimizer step"
        )
    names = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in names}
    checkpoint[BACKBONE] = _identity(module)
    checkpoint[ANCHOR] = module.window.anchor
    if module.model is not None and (state := module.method.state(module.model)) is not None:
        checkpoint[METHOD_STATE] = state


def check_trainables(module: PeftModule, checkpoint: dict[str, Any]) -> None:
    """Refuse a checkpoint that does not hold exactly what trains, or belongs to another base; take back the rest.

    Args:
        module: The module.
        checkpoint: What Lightning is about to load; it would take what fits.

    Raises:
        CheckpointError: Naming what differs.
    """
    names = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    odd = sorted(names ^ set(checkpoint["state_dict"]))
    if odd:
        raise CheckpointError(f"the checkpoint does not hold what this config trains ({odd[0]})")
    before, now = checkpoint[BACKBONE], _identity(module)
    if before["weights_sha256"] != now["weights_sha256"]:
        raise CheckpointError(
            f"backbone: the weights of {now['name_or_path']!r} are not those that the checkpoint was trained on "
            f"({before['name_or_path']!r}, sha256 {str(before['weights_sha256'])[:12]}...); restore them, or start a "
            "new run"
        )
    if before["config_sha256"] != now["config_sha256"]:
        raise CheckpointError(
            f"backbone: config.json of {now['name_or_path']!r} is not the one that the checkpoint was trained with; "
            "restore it, or start a new run"
        )
    module.window.anchor = checkpoint.get(ANCHOR)
    if module.model is not None and METHOD_STATE in checkpoint:
        module.method.restore_state(module.model, checkpoint[METHOD_STATE])


def _identity(module: PeftModule) -> dict[str, Any]:
    """Name, commit and digest of the frozen weights; the digest is None where they are random."""
    location = module.backbone.location
    commit = commit_of(location, module.backbone.revision)
    return {
        "name_or_path": location,
        "commit": commit,
        "weights_sha256": weights_sha256(location, commit),
        "config_sha256": config_sha256(location, commit),
    }
