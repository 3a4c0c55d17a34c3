"""The folder that others use: adapter, head, tokenizer, label map, quantization record."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from peft import PeftModel, set_peft_model_state_dict
from peft.utils.save_and_load import load_peft_weights
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peftlit.architecture import float_modules
from peftlit.digest import sha256_of_file, sha256_of_tensors
from peftlit.errors import RunFolderError
from peftlit.modules.base import PeftModule
from peftlit.run.files import write_json

LABEL_MAP_FILE = "label_map.json"
QUANTIZATION_FILE = "quantization_config.json"
OVERRIDES_FILE = "config_overrides.json"
HEAD_FILE = "head.safetensors"
HEAD_RECORD_FILE = "head.json"
RANDOM_BASE_FOLDER = "random_base"
WEIGHT_FILES = ("adapter_model.safetensors", HEAD_FILE, "model.safetensors")


def export(module: PeftModule, tokenizer: PreTrainedTokenizerBase, folder: Path, trainer_state: dict[str, Any]) -> None:
    """Write the folder aside and rename it into place.

    A peft adapter becomes a peft folder; a head alone ``head.safetensors`` and ``head.json``; full fine-tuning an
    ordinary transformers folder. All of them get the tokenizer, the label map and the quantization record.

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
    tokenizer.save_pretrained(aside)
    config = module.read_config()
    write_json(aside / LABEL_MAP_FILE, {"id2label": config.id2label, "label2id": config.label2id})
    device_type = next(module.model.parameters()).device.type
    quantization = module.backbone.quantization_config(float_modules(_inner(module.model)), device_type)
    if quantization is not None:
        write_json(aside / QUANTIZATION_FILE, json.loads(quantization.to_json_string(use_diff=False)))
    if module.backbone.config_overrides:
        write_json(aside / OVERRIDES_FILE, module.backbone.config_overrides)
    if module.backbone.location is None:
        config.save_pretrained(aside / RANDOM_BASE_FOLDER)
        if isinstance(module.backbone.config, str):  # a model's own code goes with its config
            for code in Path(module.backbone.config).glob("*.py"):
                shutil.copy(code, aside / RANDOM_BASE_FOLDER)
    write_json(aside / "trainer_state.json", trainer_state)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def _inner(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    inner: PreTrainedModel = base
    return inner


def _save_weights(module: PeftModule, model: PreTrainedModel | PeftModel, folder: Path) -> None:
    backbone = module.backbone
    revision = getattr(_inner(model).config, "_commit_hash", None) or backbone.revision
    if isinstance(model, PeftModel):
        for config in model.peft_config.values():
            config.base_model_name_or_path = backbone.location
            config.revision = revision
        model.save_pretrained(str(folder), save_embedding_layers=False)
        # peft writes a card of empty headings; no card is better than that one
        (folder / "README.md").unlink(missing_ok=True)
        for config in model.peft_config.values():
            config.inference_mode = False
    elif module.adapter is None:
        save_file(head_tensors(module), folder / HEAD_FILE)
        write_json(
            folder / HEAD_RECORD_FILE,
            {
                "auto_class": module.auto_class.__name__,
                "base_model_name_or_path": backbone.location,
                "modules": module.heads,
                "revision": revision,
            },
        )
    else:
        model.save_pretrained(folder)


def head_tensors(module: PeftModule) -> dict[str, Tensor]:
    """Return the weights that a head-only run trained, by name.

    Args:
        module: The module.
    """
    assert module.model is not None
    return {n: p.detach().cpu().contiguous() for n, p in module.model.named_parameters() if p.requires_grad}


def load_export(module: PeftModule, folder: Path) -> None:
    """Put the exported weights into a module whose model is built.

    Args:
        module: The module, after ``configure_model``.
        folder: What :func:`export` wrote.

    Raises:
        RunFolderError: The folder's weights do not fit the module.
    """
    assert module.model is not None
    if isinstance(module.model, PeftModel):
        if not (folder / "adapter_config.json").is_file():
            raise RunFolderError(f"{folder}: holds no peft adapter, but the config asks for one")
        result: Any = set_peft_model_state_dict(module.model, load_peft_weights(str(folder), device="cpu"))
        unexpected = list(result.unexpected_keys)
    else:
        name = HEAD_FILE if module.adapter is None else "model.safetensors"
        if not (folder / name).is_file():
            raise RunFolderError(f"{folder}: holds no {name}, but the config asks for one")
        result = module.model.load_state_dict(load_file(folder / name), strict=False)
        unexpected = list(result.unexpected_keys)
    trained = {n for n, p in module.model.named_parameters() if p.requires_grad}
    absent = sorted(trained & set(result.missing_keys))
    if unexpected or absent:
        raise RunFolderError(f"{folder}: its weights do not belong to this config ({(unexpected + absent)[0]})")


def weights_sha256(folder: Path) -> str:
    """Return the digest of the exported weights file.

    Args:
        folder: What :func:`export` wrote.
    """
    return sha256_of_file(next(folder / name for name in WEIGHT_FILES if (folder / name).is_file()))


def trainable_sha256(module: PeftModule) -> str:
    """Return one digest over everything that trains, for comparing two runs.

    Args:
        module: The module.
    """
    return sha256_of_tensors({n: p for n, p in module.named_parameters() if p.requires_grad})
