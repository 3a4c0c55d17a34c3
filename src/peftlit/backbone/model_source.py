"""Where a model's files are: a hub id, a folder, or inside an installed Python package."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.peft_utils import find_adapter_config_file

from peftlit.errors import BackboneError
from peftlit.files import WEIGHTS_SUFFIX, read_record

PACKAGE_PREFIX = "package:"


def resolve(name_or_path: str) -> str:
    """Turn ``package:NAME`` and local folders into absolute folders; leave hub ids alone.

    Raises:
        BackboneError: The package, which is not imported, is not installed or holds no ``config.json``.
    """
    if not name_or_path.startswith(PACKAGE_PREFIX):
        return str(Path(name_or_path).resolve()) if Path(name_or_path).is_dir() else name_or_path
    package = name_or_path.removeprefix(PACKAGE_PREFIX)
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise BackboneError(
            f"name_or_path: {name_or_path!r}: no package {package!r} is installed here; "
            f"install it with: pip install {package.replace('_', '-')}"
        )
    configs = sorted(Path(spec.submodule_search_locations[0]).rglob("config.json"), key=lambda p: len(p.parts))
    if not configs:
        raise BackboneError(f"name_or_path: {name_or_path!r}: the package {package!r} holds no config.json")
    return str(configs[0].parent)


def distribution_of(name_or_path: str | None) -> tuple[str | None, str | None]:
    """Return name and version of the distribution that contains ``package:NAME``; None for both where none does."""
    package = (name_or_path or "").removeprefix(PACKAGE_PREFIX)
    found = metadata.packages_distributions().get(package) if package != name_or_path else None
    return (found[0], metadata.version(found[0])) if found else (None, None)


def check_base(location: str, revision: str | None) -> None:
    """Refuse a base model from which transformers would load pickles, or another model.

    Raises:
        BackboneError: It is an adapter, or its weights are not safetensors.
    """
    if find_adapter_config_file(location, revision=revision) is not None:
        raise BackboneError(f"backbone: {location} is an adapter; name the model that it belongs to")
    folder = Path(location)
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if not folder.is_dir() or (folder / SAFE_WEIGHTS_NAME).is_file():
        return
    if not index.is_file():
        raise BackboneError(
            f"backbone: {folder} holds no {SAFE_WEIGHTS_NAME}; weights in another format are pickles, which can run "
            "code: save them with save_pretrained of a recent transformers"
        )
    parts = read_record(index, BackboneError).get("weight_map")
    names = list(parts.values()) if isinstance(parts, dict) else [None]
    if not all(isinstance(n, str) and Path(n).name == n and n.endswith(WEIGHTS_SUFFIX) for n in names):
        raise BackboneError(f"backbone: {index} names other files than safetensors beside it; do not use it")
