"""Whether the run that resumes is the one that was interrupted: settings that change the result, and the data."""

from __future__ import annotations

import json
import pydoc
from hashlib import sha256
from inspect import signature
from pathlib import Path
from typing import Any

import yaml
from lightning import Trainer
from lightning.pytorch.plugins import CheckpointIO

from peftlit.checkpoint.format import AdapterCheckpointIO
from peftlit.checkpoint.resume import RECORD
from peftlit.data import TokenDataModule
from peftlit.errors import CheckpointError, RunFolderError

FREE = (
    "data.num_workers",
    "data.num_proc",
    "trainer.default_root_dir",
    "trainer.enable_checkpointing",
    "trainer.enable_model_summary",
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
    "trainer.logger",
    "trainer.profiler",
)
"""Settings that may differ: they change speed or what is shown, not the weights."""

PLACES = ("data_dir", "file", "path", "test_file", "train_file", "validation_file")
"""Settings of the data that say where rows are: what counts is that the rows are the same."""

_NEEDED = ("state_dict", "loops", "callbacks", "optimizer_states", "lr_schedulers", RECORD)
_LENGTHS = ("trainer.max_epochs", "trainer.max_steps")
_SHOWN = 3


def describe(config: str, data: TokenDataModule | None, precision: str) -> dict[str, Any]:
    """Return the record of a run that its checkpoints keep, to be compared when it resumes.

    The hardware may have chosen the precision. Rows are compared only where the data module is peftlit's, and not None.
    """
    settings = _as_json(_flat(yaml.safe_load(config)))
    manifest = data.manifest() if data is not None else {"sha256": None, "splits": {}}
    return {
        "config_sha256": sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
        "settings": settings,
        "data_sha256": manifest["sha256"],
        "splits": {name: split["sha256"] for name, split in manifest["splits"].items()},
        "tokenizer_sha256": data.tokenizer_sha256 if data is not None else None,
        "precision": precision,
    }


def check_same_run(checkpoint: Path, now: dict[str, Any], io: CheckpointIO | None = None) -> None:
    """Refuse to resume a run as another one. The whole checkpoint is read, so that damage is found before weights load.

    Args:
        checkpoint: The checkpoint to resume from.
        now: What :func:`describe` says of the run that is about to resume.
        io: The Trainer's; if it is ours, it keeps what was read until the Trainer asks for it.

    Raises:
        CheckpointError: It is damaged, or no run can resume from it.
        RunFolderError: Naming the settings or splits that differ.
    """
    before = _record(checkpoint, io if isinstance(io, AdapterCheckpointIO) else AdapterCheckpointIO())
    if now["data_sha256"] is not None and before.get("data_sha256") != now["data_sha256"]:
        found = [name for name, digest in now["splits"].items() if digest != before["splits"].get(name)]
        what = ", ".join(found) or "the order of rows, or how they are cut,"
        raise RunFolderError(
            f"{checkpoint}: the data has changed since the run began ({what} differs); restore it, or start a new run"
        )
    if before.get("tokenizer_sha256") != now["tokenizer_sha256"]:
        raise RunFolderError(
            f"{checkpoint}: the tokenizer has changed since the run began; restore it, or start a new run"
        )
    old, new = _flat(before["settings"]), now["settings"]
    free = {*FREE, *(f"data.{name}" for name in PLACES if now["data_sha256"] is not None)}
    if _knows_no_end(new):
        free |= set(_LENGTHS)
    compared = [key for key in sorted({*old, *new}) if not any(f"{key}.".startswith(f"{name}.") for name in free)]
    changed = [key for key in compared if _differs(key, old, new)]
    if changed:
        shown = ", ".join(f"{key} {old.get(key)!r} -> {new.get(key)!r}" for key in changed[:_SHOWN])
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise RunFolderError(
            f"{checkpoint}: these settings would continue it as another run: {shown}{more}; set them back, or "
            "start a new run"
        )
    if before.get("precision") != now["precision"]:
        raise RunFolderError(
            f"{checkpoint}: the run computed in {before.get('precision')}, and would go on in {now['precision']}; set "
            f"trainer.precision to the former, on hardware that has it, or start a new run"
        )


def _record(checkpoint: Path, io: AdapterCheckpointIO) -> dict[str, Any]:
    content = io.read_ahead(checkpoint)
    if missing := [name for name in _NEEDED if name not in content]:
        raise CheckpointError(
            f"{checkpoint}: holds no {missing[0]}, so no run can go on from it; use another checkpoint"
        )
    record = content[RECORD]
    if not isinstance(record, dict) or not all(isinstance(record.get(key), dict) for key in ("settings", "splits")):
        raise CheckpointError(f"{checkpoint}: does not say which run it belongs to; use another checkpoint")
    return record


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Give every value its dotted key, objects in lists by their position; ``init_args`` is left out."""
    if isinstance(tree, list) and any(isinstance(item, dict) for item in tree):
        tree = {str(i): item for i, item in enumerate(tree)}
    if not isinstance(tree, dict):
        return {prefix: tree}
    values: dict[str, Any] = {}
    for key, value in tree.items():
        values |= _flat(value, prefix if key == "init_args" else f"{prefix}.{key}".lstrip("."))
    return values


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value, sort_keys=True, default=str))


def _differs(key: str, old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Tell whether a setting has another value, and not only because another version wrote the checkpoint.

    That version may have known a class of ours under another path, lacked a setting that has its default now, or had
    one, switched off, that is gone.
    """
    if key.endswith("class_path"):
        return _class_name(old.get(key)) != _class_name(new.get(key))
    if old.get(key) == new.get(key):
        return False
    parameters = _parameters_beside(key, new)
    name = key.rpartition(".")[2]
    if key not in old and name in parameters:
        return bool(_as_json(parameters[name].default) != new[key])
    is_gone = key not in new and bool(parameters) and name not in parameters
    return bool(old[key]) if is_gone else True


def _class_name(path: object) -> str:
    """Return a class's path, of ours only the name: their paths have changed."""
    return str(path).rpartition(".")[2] if str(path).startswith("peftlit.") else str(path)


def _parameters_beside(key: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of the class that a setting is an argument of; none where it is an entry of a dict."""
    owner = key.rpartition(".")[0]
    kind = Trainer if owner == "trainer" else pydoc.locate(str(settings.get(f"{owner}.class_path")))
    if not isinstance(kind, type):
        return {}
    parameters: dict[str, Any] = {}
    for base in reversed(kind.__mro__[:-1]):  # a subclass may hand on what it does not name
        parameters.update(signature(vars(base).get("__init__", object)).parameters)
    return parameters


def _knows_no_end(settings: dict[str, Any]) -> bool:
    """Tell whether the learning rate is the same however long the run is to be."""
    kind = settings.get("model.scheduler.class_path")
    if kind is None:
        return "model.scheduler" in settings
    return str(kind).endswith("ConstantWarmup") and settings.get("model.scheduler.warmup_ratio") is None
