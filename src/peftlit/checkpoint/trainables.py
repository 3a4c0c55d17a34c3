"""The weights in a checkpoint: only those that train, and on which frozen ones they were trained."""

from __future__ import annotations

from typing import Any

from peftlit.digest import commit_of, config_sha256, weights_sha256
from peftlit.errors import CheckpointError

BACKBONE = "backbone"
"""Checkpoint key: which frozen weights the checkpoint was trained on."""


def keep_trainables(checkpoint: dict[str, Any], trainable: set[str], backbone: dict[str, Any]) -> None:
    """Drop frozen weights from a checkpoint, in place, and record what :func:`identify_backbone` says of them."""
    checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in trainable}
    checkpoint[BACKBONE] = backbone


def check_trainables(checkpoint: dict[str, Any], trainable: set[str], backbone: dict[str, Any]) -> None:
    """Refuse a checkpoint of other parameters or another backbone; Lightning would load whatever fits.

    Raises:
        CheckpointError: Naming what differs.
    """
    odd = sorted(trainable ^ set(checkpoint["state_dict"]))
    if odd:
        raise CheckpointError(f"the checkpoint does not hold what this config trains ({odd[0]})")
    saved = checkpoint[BACKBONE]
    if saved["weights_sha256"] != backbone["weights_sha256"]:
        raise CheckpointError(
            f"backbone: the weights of {backbone['name_or_path']!r} are not those that the checkpoint was trained on "
            f"({saved['name_or_path']!r}, sha256 {str(saved['weights_sha256'])[:12]}...); restore them, or start a new "
            "run"
        )
    if saved["config_sha256"] != backbone["config_sha256"]:
        raise CheckpointError(
            f"backbone: config.json of {backbone['name_or_path']!r} is not the one that the checkpoint was trained "
            "with; restore it, or start a new run"
        )


def identify_backbone(location: str | None, revision: str | None) -> dict[str, Any]:
    """Return name, commit and digests of a backbone's files; the digests are None where its weights are random."""
    commit = commit_of(location, revision)
    return {
        "name_or_path": location,
        "commit": commit,
        "weights_sha256": weights_sha256(location, commit),
        "config_sha256": config_sha256(location, commit),
    }
