"""What must be the same when a run is continued: settings that change the result, and the data."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from peftlit.checkpoint.format import AdapterCheckpointIO
from peftlit.checkpoint.resume import RECORD
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

_NEEDED = ("state_dict", "loops", "callbacks", "optimizer_states", "lr_schedulers")
_LENGTHS = ("trainer.max_epochs", "trainer.max_steps")
_SHOWN = 3


def describe(
    config: str, manifest: dict[str, Any] | None, tokenizer_sha256: str | None, precision: str
) -> dict[str, Any]:
    """Return what a checkpoint keeps of its run, to be compared when it goes on.

    Args:
        config: The resolved configuration, as YAML.
        manifest: The data's split manifest, None for data that has none.
        tokenizer_sha256: Names what makes tokens of the rows, None for data that has none.
        precision: What the run computes in: chosen by the hardware, where the configuration leaves it open.
    """
    settings = _flat(yaml.safe_load(config))
    text = json.dumps(settings, sort_keys=True, default=str)
    splits = {name: split["sha256"] for name, split in manifest["splits"].items()} if manifest else {}
    return {
        "config_sha256": sha256(text.encode()).hexdigest(),
        "settings": json.loads(text),
        "data_sha256": manifest["sha256"] if manifest else None,
        "splits": splits,
        "tokenizer_sha256": tokenizer_sha256,
        "precision": precision,
    }


def check_same_run(checkpoint: Path, now: dict[str, Any]) -> None:
    """Refuse to continue a run as another one; read the whole checkpoint, so that a damaged one is told here.

    Args:
        checkpoint: The checkpoint that the run goes on from.
        now: What :func:`describe` says of the run that is about to go on.

    Raises:
        CheckpointError: It is damaged, or nothing can go on from it.
        RunFolderError: With the settings that differ, or the splits.
    """
    content = AdapterCheckpointIO().load_checkpoint(checkpoint)
    missing = [name for name in (*_NEEDED, RECORD) if name not in content]
    if missing:
        raise CheckpointError(
            f"{checkpoint}: holds no {missing[0]}, so no run can go on from it; use another checkpoint"
        )
    before = content[RECORD]
    if not isinstance(before, dict) or not all(isinstance(before.get(key), dict) for key in ("settings", "splits")):
        raise CheckpointError(f"{checkpoint}: does not say which run it belongs to; use another checkpoint")
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
    old, new = before["settings"], now["settings"]
    free = {*FREE, *(f"data.{name}" for name in PLACES if now["data_sha256"] is not None)}
    if _knows_no_end(new):
        free |= set(_LENGTHS)
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key) and not _within(key, free)]
    if changed:
        told = ", ".join(f"{key} {old.get(key)!r} -> {new.get(key)!r}" for key in changed[:_SHOWN])
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise RunFolderError(
            f"{checkpoint}: these settings would continue it as another run: {told}{more}; set them back, or "
            "start a new run"
        )
    if before.get("precision") != now["precision"]:
        raise RunFolderError(
            f"{checkpoint}: the run computed in {before.get('precision')}, and would go on in {now['precision']}; set "
            f"trainer.precision to the former, on hardware that has it, or start a new run"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Give every value its dotted key; ``init_args`` is left out."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        name = prefix if key == "init_args" else f"{prefix}.{key}".lstrip(".")
        values |= _flat(value, name) if isinstance(value, dict) else {name: value}
    return values


def _within(key: str, free: set[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in free)


def _knows_no_end(settings: dict[str, Any]) -> bool:
    """Tell whether the learning rate goes on the same however long the run is to be."""
    kind = settings.get("model.scheduler.class_path")
    if kind is None:
        return "model.scheduler" in settings
    return str(kind).endswith("ConstantWarmup") and settings.get("model.scheduler.warmup_ratio") is None
