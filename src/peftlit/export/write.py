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

import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

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
ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
HEAD_FILE = "head.safetensors"
HEAD_RECORD_FILE = "head.json"
RANDOM_BASE_FOLDER = "random_base"
MODEL_FILE = "model.safetensors"
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
    inner = _inner(module.model)
    quantization = module.backbone.quantization_config(float_modules(inner), inner.device.type)
    if quantization is not None:
        write_json(aside / QUANTIZATION_FILE, json.loads(quantization.to_json_string(use_diff=False)))
    write_json(aside / BACKBONE_FILE, base_record(module.backbone, inner))
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


def _inner(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    inner: PreTrainedModel = base
    return inner


def _save_weights(module: PeftModule, model: PreTrainedModel | PeftModel, folder: Path) -> None:
    if isinstance(model, PeftModel):
        for config in model.peft_config.values():
            config.base_model_name_or_path = module.backbone.name_or_path or ""  # for None peft looks for a path
            config.revision = commit_of(module.backbone.location, module.backbone.revision)
        with _all_ranks(model):
            model.save_pretrained(str(folder), save_embedding_layers=False)
        # peft writes a card of empty headings; no card is better than that one
        (folder / "README.md").unlink(missing_ok=True)
        for config in model.peft_config.values():
            config.inference_mode = False
    elif module.adapter is not None:
        model.save_pretrained(folder)
    if module.head is not None:
        kind = type(module.head)
        record = {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": module.head.settings()}
        write_json(folder / HEAD_RECORD_FILE, record)
        save_file(_on_cpu(module.head.state_dict()), folder / HEAD_FILE)
    elif module.adapter is None or (module.fresh and isinstance(model, PeftModel)):
        trained = head_tensors(module)
        write_json(folder / HEAD_RECORD_FILE, {"auto_class": module.auto_class.__name__, "tensors": sorted(trained)})
        save_file(trained, folder / HEAD_FILE)


@contextmanager
def _all_ranks(model: PeftModel) -> Iterator[None]:
    """Save the ranks that AdaLoRA has set to zero, too: 4-bit layers that are cut down to the rest answer otherwise."""
    kept = [(one, one.rank_pattern) for one in model.peft_config.values() if isinstance(one, AdaLoraConfig)]
    for config, _ in kept:
        config.rank_pattern = None
    try:
        yield
    finally:
        for config, pattern in kept:
            config.rank_pattern = pattern


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def head_tensors(module: PeftModule) -> dict[str, Tensor]:
    """Return the weights of the Auto class's head that no adapter's file holds, by name.

    Args:
        module: The module, with a head alone or with fresh weights in a pretrained head.
    """
    assert module.model is not None
    inner = _inner(module.model)
    return _on_cpu(
        {n: p for n, p in inner.named_parameters() if p.requires_grad and (module.adapter is None or n in module.fresh)}
    )


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
        if isinstance(module.model, PeftModel):
            if not (folder / ADAPTER_CONFIG_FILE).is_file():
                raise RunFolderError(f"{folder}: holds no peft adapter, but the config asks for one")
            # read here and not by peft, which would take a pickle where there is no safetensors file
            odd = _load_adapter(module.model, _read(folder / ADAPTER_FILE))
            if module.fresh:
                odd += _load_fresh(module, _read(folder / HEAD_FILE))
        elif module.adapter is not None:
            odd = _load_state(module.model, _read(folder / MODEL_FILE))
        elif module.head is None:
            odd = _load_state(module.model, _read(folder / HEAD_FILE))
        if module.head is not None:
            odd += _load_state(module.head, _read(folder / HEAD_FILE))
        if odd:
            raise RunFolderError(f"{folder}: its weights do not belong to this config ({odd[0]})")
        module.restore({name: read_record(folder / name, RunFolderError) for name in module.records()})


def _load_adapter(model: PeftModel, tensors: dict[str, Tensor]) -> list[str]:
    """Load an adapter; return the names of what is not in the model as it was saved.

    What peft says of names is not the whole truth: prompts and shared vectors are stored under others.
    """
    set_peft_model_state_dict(model, dict(tensors))
    for config in model.peft_config.values():
        config.inference_mode = config.is_prompt_learning  # prompts are saved as what their encoder made of them
    now = get_peft_model_state_dict(model, save_embedding_layers=False)
    return sorted(
        name for name in {*tensors, *now} if not (name in tensors and name in now and _same(tensors[name], now[name]))
    )


def _same(saved: Tensor, loaded: Tensor) -> bool:
    return saved.shape == loaded.shape and torch.equal(saved.to(loaded.device, loaded.dtype), loaded.detach())


def _load_fresh(module: PeftModule, tensors: dict[str, Tensor]) -> list[str]:
    """Load the fresh weights of a pretrained head; return the names that are too many or missing."""
    assert module.model is not None
    _inner(module.model).load_state_dict(tensors, strict=False)
    return sorted(set(module.fresh) ^ set(tensors))


def _load_state(module: nn.Module, tensors: dict[str, Tensor]) -> list[str]:
    """Load what trains; return the names that are too many or missing."""
    result = module.load_state_dict(tensors, strict=False)
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    return sorted({*result.unexpected_keys, *(trained & set(result.missing_keys))})


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
