"""The folder that others use: adapter, head, tokenizer, label map, and a record of the backbone."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from peftlit.adapters.full_fine_tuning import MODEL_FILE
from peftlit.adapters.method import load_trained
from peftlit.adapters.peft_method import ADAPTER_FILE
from peftlit.backbone.architecture import float_modules
from peftlit.backbone.hardware import is_out_of_memory
from peftlit.digest import commit_of, sha256_of_file, sha256_of_tensors
from peftlit.errors import OutOfMemoryError, PeftlitError, RunFolderError
from peftlit.export.records import (
    BACKBONE_FILE,
    NEVER_FINISHED,
    base_record,
    warn_unless_reload_passed,
    write_reload_check,
)
from peftlit.files import check_folder, read_record, write_json, write_text
from peftlit.modules.base import PeftModule

log = logging.getLogger(__name__)

QUANTIZATION_FILE = "quantization_config.json"
HEAD_FILE = "head.safetensors"
HEAD_RECORD_FILE = "head.json"
RANDOM_BASE_FOLDER = "random_base"
WEIGHT_FILES = (ADAPTER_FILE, HEAD_FILE, MODEL_FILE)
DIGEST_FILE = "SHA256SUMS"
"""Digests of the weights files, as ``sha256sum --check`` reads them."""


def export(module: PeftModule, tokenizer: PreTrainedTokenizerBase, folder: Path, trainer_state: dict[str, Any]) -> None:
    """Write the folder aside and rename it into place.

    A peft adapter becomes a peft folder; a head alone ``head.safetensors`` and ``head.json``; full fine-tuning an
    ordinary transformers folder. An own head is ``head.safetensors`` and ``head.json`` beside any of them. All get
    the tokenizer, the label map, and what the backbone is, quantized how.

    Args:
        module: The trained module.
        tokenizer: The tokenizer it was trained with.
        folder: The folder to write.
        trainer_state: The run's history, in Hugging Face's shape.
    """
    assert module.model is not None
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    _save_weights(module, module.model, aside)
    written = [name for name in WEIGHT_FILES if (aside / name).is_file()]
    write_text(aside / DIGEST_FILE, "".join(f"{sha256_of_file(aside / name)}  {name}\n" for name in written))
    tokenizer.save_pretrained(aside)
    for name, content in module.records().items():
        write_json(aside / name, content)
    base = module.method.base_model(module.model)
    quantization = module.backbone.quantization_config(float_modules(base), base.device.type)
    if quantization is not None:
        write_json(aside / QUANTIZATION_FILE, json.loads(quantization.to_json_string(use_diff=False)))
    write_json(aside / BACKBONE_FILE, base_record(module.backbone, base))
    if module.backbone.location is None:
        module.read_config().save_pretrained(aside / RANDOM_BASE_FOLDER)
        if isinstance(module.backbone.config, str):  # a model's own code goes with its config
            for code in Path(module.backbone.config).glob("*.py"):
                shutil.copy(code, aside / RANDOM_BASE_FOLDER)
    write_json(aside / "trainer_state.json", trainer_state)
    write_reload_check(aside, failure=NEVER_FINISHED)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    if module.data.cleaning_steps:
        log.info(
            "texts are cleaned before the tokenizer (%s): predict and peftlit.load do it; with plain transformers, "
            "clean them first (peftlit.data.cleaning.Cleaner)",
            ", ".join(module.data.cleaning_steps),
        )


def _save_weights(module: PeftModule, model: nn.Module, folder: Path) -> None:
    backbone = module.backbone
    commit = commit_of(backbone.location, backbone.revision)
    # an empty name, as peft looks for a path in place of None
    module.method.save(model, folder, base_model=backbone.name_or_path or "", revision=commit)
    if module.head is not None:
        kind = type(module.head)
        record = {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": module.head.settings()}
        write_json(folder / HEAD_RECORD_FILE, record)
        save_file(_on_cpu(module.head.state_dict()), folder / HEAD_FILE)
    elif trained := head_tensors(module):
        write_json(folder / HEAD_RECORD_FILE, {"auto_class": module.auto_class.__name__, "tensors": sorted(trained)})
        save_file(trained, folder / HEAD_FILE)


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def head_tensors(module: PeftModule) -> dict[str, Tensor]:
    """Return the trained weights of the Auto class's head that no adapter's file holds, by name.

    Args:
        module: The module, built.
    """
    return _on_cpu(module.method.head_tensors(module.model, module.newly_initialized))


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Let what goes wrong with a folder be one line: what libraries make of a stranger's files cannot be foreseen.

    Args:
        folder: The folder that is read.

    Raises:
        OutOfMemoryError: There is too little memory for it.
        RunFolderError: It is damaged, or holds what should not be followed.
    """
    try:
        check_folder(folder, RunFolderError)
        yield
    except PeftlitError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemoryError(f"{folder}: memory ran out while it was loaded; free some") from error
        said = (str(error).strip().splitlines() or [""])[0]
        raise RunFolderError(
            f"{folder}: damaged, or not what peftlit exports ({type(error).__name__}: {said}); copy the folder again"
        ) from error


def load_export(module: PeftModule, folder: Path) -> None:
    """Put the exported weights into a module whose model is built.

    Args:
        module: The module, after ``configure_model``.
        folder: What :func:`export` wrote.

    Raises:
        RunFolderError: The folder's weights do not fit the module, or are damaged.
    """
    assert module.model is not None
    with reading(folder):
        warn_unless_reload_passed(folder)
        odd: list[str] = []
        if module.method.weights_file is not None:
            # read here and not by peft, which would take a pickle where there is no safetensors file
            odd += module.method.load(module.model, _read(folder / module.method.weights_file))
        if module.head is not None:
            odd += load_trained(module.head, _read(folder / HEAD_FILE))
        elif expected := module.method.head_tensors(module.model, module.newly_initialized):
            tensors = _read(folder / HEAD_FILE)
            module.method.base_model(module.model).load_state_dict(tensors, strict=False)
            odd += sorted(expected.keys() ^ tensors.keys())
        if odd:
            raise RunFolderError(f"{folder}: its weights do not belong to this config ({odd[0]})")
        module.restore({name: read_record(folder / name, RunFolderError) for name in module.records()})


def _read(path: Path) -> dict[str, Tensor]:
    """Read weights, and find out whether they are still those that were written."""
    if not path.is_file():
        raise RunFolderError(f"{path.parent}: holds no {path.name}, but the config asks for one")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise RunFolderError(f"{path}: damaged ({error}); copy the folder again") from error
    recorded = path.with_name(DIGEST_FILE)  # earlier versions wrote none
    if recorded.is_file() and f"{sha256_of_file(path)}  {path.name}\n" not in recorded.read_text(encoding="utf-8"):
        raise RunFolderError(f"{path}: not what was written ({DIGEST_FILE}); copy the folder again")
    return tensors


def weights_sha256(folder: Path) -> str:
    """Return the digest of the exported weights file; of two, an adapter and an own head, one digest of both.

    Args:
        folder: What :func:`export` wrote.
    """
    digests = [sha256_of_file(folder / name) for name in WEIGHT_FILES if (folder / name).is_file()]
    return digests[0] if len(digests) == 1 else sha256(" ".join(digests).encode()).hexdigest()


def trainable_sha256(module: PeftModule) -> str:
    """Return one digest over everything that trains, for comparing two runs.

    Args:
        module: The module.
    """
    return sha256_of_tensors({n: p for n, p in module.named_parameters() if p.requires_grad})
