"""Weights in a GGUF file, the format of llama.cpp: converted once to a transformers folder, which all else reads."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import cached_assets_path
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PretrainedConfig, PreTrainedModel

from peftlit.backbone.hardware import is_out_of_memory
from peftlit.backbone.quiet import quiet_transformers
from peftlit.digest import sha256_of_file
from peftlit.errors import BackboneError, first_line
from peftlit.files import write_json

log = logging.getLogger(__name__)

GGUF_SUFFIX = ".gguf"
SOURCE_FILE = "gguf.json"
"""Names the GGUF file that a converted folder was made of, with its digest."""

_FORMAT = "1"
"""Changes with what :func:`_convert` writes, so that an older conversion is not taken for it."""


def converted(file: Path) -> Path:
    """Return the transformers folder of a GGUF file, in bfloat16, with its tokenizer; make it where there is none.

    Raises:
        BackboneError: The file cannot be read as a language model, or the package ``gguf`` is missing.
    """
    state = file.stat()
    return _converted(file, state.st_size, state.st_mtime_ns)


@lru_cache
def _converted(file: Path, size: int, mtime_ns: int) -> Path:
    digest = sha256_of_file(file)
    folder = cached_assets_path("peftlit", "gguf", f"{digest[:32]}-{_FORMAT}")
    if (folder / SOURCE_FILE).is_file():
        return folder
    if importlib.util.find_spec("gguf") is None:
        raise BackboneError(f"backbone: reading {file.name} needs the package gguf; install it with: pip install gguf")
    log.info("%s: converting to bfloat16 safetensors, once, in %s", file.name, folder)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        with quiet_transformers():
            _convert(file, aside)
        write_json(aside / SOURCE_FILE, {"file": file.name, "sha256": digest})
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    except Exception as error:
        shutil.rmtree(aside, ignore_errors=True)
        if (folder / SOURCE_FILE).is_file():  # another process was faster
            return folder
        if is_out_of_memory(error):
            raise
        raise BackboneError(f"backbone: {file}: cannot be read as a language model: {first_line(error)}") from error
    return folder


def _convert(file: Path, folder: Path) -> None:
    """Write a model that remembers nothing of its GGUF file: transformers refuses to save the one that it reads."""
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    read: PreTrainedModel = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16)
    model: Any = type(read)(_plain_config(read.config))
    model.to(torch.bfloat16)
    model.load_state_dict(read.state_dict())
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _plain_config(config: PretrainedConfig) -> PretrainedConfig:
    """Return the config as the model was published: GGUF keeps numbers in float32, 1e-5 as 9.999999747378752e-06."""
    entries = config.to_dict()
    for name in ("quantization_config", "_model_name_or_path", "_name_or_path"):
        entries.pop(name, None)
    rounded: dict[str, Any] = {k: float(f"{v:.7g}") if isinstance(v, float) else v for k, v in entries.items()}
    return type(config)(**{**rounded, "dtype": "bfloat16"})
