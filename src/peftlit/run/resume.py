"""What must be the same when a run is continued: settings that change the result, and the data."""

from __future__ import annotations

import json
from typing import Any

import yaml

from peftlit.errors import RunFolderError
from peftlit.run.folder import RunFolder

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

_LENGTHS = ("trainer.max_epochs", "trainer.max_steps")
_SHOWN = 3


def check_same_run(folder: RunFolder, config: str, manifest: dict[str, Any] | None) -> None:
    """Refuse to continue a run as another one.

    Args:
        folder: The run folder.
        config: The resolved configuration, as YAML.
        manifest: The data's split manifest, None for data that has none.

    Raises:
        RunFolderError: With the settings that differ, or the splits.
    """
    if manifest is not None and folder.manifest.is_file():
        before = json.loads(folder.manifest.read_text(encoding="utf-8"))
        if before["sha256"] != manifest["sha256"]:
            found = [name for name, split in manifest["splits"].items() if split != before["splits"].get(name)]
            what = ", ".join(found) or "how it is cut"
            raise RunFolderError(
                f"--run_dir {folder.path}: the data has changed since the run began ({what} differs); restore it, or "
                "start a new run"
            )
    if not folder.config.is_file():
        return
    old, new = (_flat(yaml.safe_load(text)) for text in (folder.config.read_text(encoding="utf-8"), config))
    free = {*FREE, *(f"data.{name}" for name in PLACES if manifest is not None)}
    if _knows_no_end(new):
        free |= set(_LENGTHS)
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key) and not _within(key, free)]
    if changed:
        told = ", ".join(f"{key} {old.get(key)!r} -> {new.get(key)!r}" for key in changed[:_SHOWN])
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise RunFolderError(
            f"--run_dir {folder.path}: these settings would continue it as another run: {told}{more}; set them back "
            f"(fit --config {folder.config} --ckpt_path last), or start a new run"
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
