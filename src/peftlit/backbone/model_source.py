"""Where a model's files are: a hub id, a folder, a GGUF file, or inside an installed Python package."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path

from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.peft_utils import find_adapter_config_file

from peftlit.backbone.gguf import GGUF_SUFFIX, converted
from peftlit.errors import BackboneError
from peftlit.files import WEIGHTS_SUFFIX, read_record

PACKAGE_PREFIX = "package:"


def resolve(name_or_path: str) -> str:
    """Turn a local folder, a GGUF file, ``package:NAME`` and ``package:NAME/FILE.gguf`` into an absolute folder.

    Hub ids stay as they are. A GGUF file is converted once; see :func:`peftlit.backbone.gguf.converted`.

    Raises:
        BackboneError: There is no such file; or the package, which is not imported, is not installed, or holds no
            model or several.
    """
    path = Path(name_or_path)
    if name_or_path.startswith(PACKAGE_PREFIX):
        path = _in_package(name_or_path)
    elif path.suffix == GGUF_SUFFIX and not path.is_file():
        raise BackboneError(f"backbone: {name_or_path}: no such file; GGUF files are read from this machine only")
    if path.suffix == GGUF_SUFFIX and path.is_file():
        return str(converted(path.resolve()))
    return str(path.resolve()) if path.is_dir() else name_or_path


def _in_package(name_or_path: str) -> Path:
    """Return the folder of the model in a package, or its GGUF file."""
    package, _, wanted = name_or_path.removeprefix(PACKAGE_PREFIX).partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise BackboneError(
            f"name_or_path: {name_or_path!r}: no package {package!r} is installed here; "
            f"install it with: pip install {package.replace('_', '-')}"
        )
    files = sorted(Path(spec.submodule_search_locations[0]).rglob("*"), key=lambda path: (len(path.parts), path))
    configs = [] if wanted else [file for file in files if file.name == CONFIG_NAME]
    if configs:
        return configs[0].parent
    ggufs = [file for file in files if file.suffix == GGUF_SUFFIX and wanted in ("", file.name)]
    if len(ggufs) == 1:
        return ggufs[0]
    if not ggufs:
        what = wanted or "config.json or GGUF file"
        raise BackboneError(f"name_or_path: {name_or_path!r}: the package {package!r} holds no {what}")
    raise BackboneError(
        f"name_or_path: {name_or_path!r}: the package {package!r} holds several GGUF files; name one: "
        f"{PACKAGE_PREFIX}{package}/{ggufs[0].name}"
    )


def distribution_of(name_or_path: str | None) -> tuple[str | None, str | None]:
    """Return name and version of the distribution that contains ``package:NAME``; None for both where none does."""
    name = name_or_path or ""
    package = name.removeprefix(PACKAGE_PREFIX).partition("/")[0]
    found = metadata.packages_distributions().get(package) if name.startswith(PACKAGE_PREFIX) else None
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
