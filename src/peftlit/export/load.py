"""Load an exported folder into a Predictor.

The folder may come from a stranger. Nothing in it is unpickled, and nothing is imported because it asks for it.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from transformers import BitsAndBytesConfig, PreTrainedTokenizerBase

from peftlit.adapters import method_of
from peftlit.adapters.adapter import read_adapter
from peftlit.backbone import Backbone
from peftlit.backbone.hardware import current_device_type
from peftlit.batch import DataSpec
from peftlit.data.cleaning import CleaningStep
from peftlit.data.label_prompts import LabelPrompts
from peftlit.data.prompt import Prompt
from peftlit.data.tokenizer import load_tokenizer
from peftlit.deprecated import MOVED
from peftlit.errors import ConfigError, RunFolderError, first_line
from peftlit.export.classifier import Classifier
from peftlit.export.generator import Generator
from peftlit.export.locate import find_export
from peftlit.export.mask_filler import MaskFiller
from peftlit.export.predictor import Predictor
from peftlit.export.records import BACKBONE_FILE, check_base_weights
from peftlit.export.sizes import check_sizes
from peftlit.export.write import (
    HEAD_FILE,
    HEAD_RECORD_FILE,
    QUANTIZATION_FILE,
    RANDOM_BASE_FOLDER,
    load_export,
    reading,
)
from peftlit.files import read_record
from peftlit.modules import CausalLM, MaskedLM, PeftModule, SequenceClassification
from peftlit.modules.heads import Head
from peftlit.modules.losses import BinaryCrossEntropy
from peftlit.modules.problems import PROBLEM_FILE

_LONGEST = 1 << 20
"""A tokenizer that was saved without a length says it takes more tokens than any model."""


def load(folder: str | Path, *, device: str | None = None, trust_remote_code: bool = False) -> Predictor:
    """Load a trained model, with the weights and the precision in which it was exported.

    Args:
        folder: A run folder, or the ``adapter/`` folder of one, wherever it was copied to.
        device: A torch device; None = the accelerator where there is one, else the CPU.
        trust_remote_code: Run Python code that comes with the backbone.

    Returns:
        A :class:`Classifier`, :class:`Generator` or :class:`MaskFiller`.

    Raises:
        RunFolderError: The folder is not an export, not a whole one, or not safe to read.
        BackboneError: The base model cannot be found, or is not the one that was trained on.
        OutOfMemoryError: There is too little memory for the model.
    """
    folder = find_export(Path(folder))
    place = _device(device or current_device_type())
    with reading(folder):
        record = read_record(folder / PROBLEM_FILE, RunFolderError)
        tokenizer = load_tokenizer(str(folder), trust_remote_code=trust_remote_code)
        module = _module(folder, record, tokenizer, trust_remote_code)
        check_sizes(module, folder)
        check_base_weights(folder, module.backbone)
        with torch.random.fork_rng():  # the random initial weights are overwritten
            module.configure_model(place)
        check_base_weights(folder, module.backbone)  # again: weights from the hub may not have been here before
        load_export(module, folder)
        return make_predictor(module.eval().to(place), tokenizer, record)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device: got {name!r}, which cannot be used here ({first_line(error)})") from error
    return device


def text_columns(folder: str | Path) -> list[str]:
    """Return the columns that a model's texts were in, one, or two for pairs, without loading weights.

    Raises:
        RunFolderError: The folder is not an export, or not a whole one.
    """
    folder = find_export(Path(folder))
    with reading(folder):
        path = folder / PROBLEM_FILE
        columns = read_record(path, RunFolderError).get("text_columns", ["text"])  # earlier exports do not say
    if not isinstance(columns, list) or len(columns) not in (1, 2) or not all(isinstance(c, str) for c in columns):
        raise RunFolderError(f"{path}: text_columns is {columns!r}, needs one or two names; copy the folder again")
    return columns


def _cleaning_steps(folder: Path, record: dict[str, Any]) -> list[str]:
    steps, known = record.get("cleaning_steps", []), get_args(CleaningStep)  # earlier exports did not clean
    if not isinstance(steps, list) or any(step not in known for step in steps):
        raise RunFolderError(
            f"{folder / PROBLEM_FILE}: cleaning_steps is {steps!r}, needs a list of {', '.join(known)}; use the "
            "version of peftlit that wrote it"
        )
    return steps


def make_predictor(module: PeftModule, tokenizer: PreTrainedTokenizerBase, record: dict[str, Any]) -> Predictor:
    """Return the predictor for a trained module, by the ``problem.json`` of its export."""
    if isinstance(module, MaskedLM):
        return MaskFiller(module, tokenizer)
    if isinstance(module, CausalLM) and module.problem is None:
        return Generator(module, tokenizer, chat=bool((record["prompt"] or {}).get("chat")))  # none: data of one's own
    prompts = None
    if isinstance(module, CausalLM):
        length = min(tokenizer.model_max_length, _LONGEST)
        prompts = LabelPrompts(Prompt(**record["prompt"]), tokenizer, record["label_names"], length)
    return Classifier(module, tokenizer, prompts)


def _module(
    folder: Path, record: dict[str, Any], tokenizer: PreTrainedTokenizerBase, trust_remote_code: bool
) -> PeftModule:
    """Build the module that the records describe, without weights."""
    adapter = read_adapter(folder)
    backbone = _backbone(folder, trust_remote_code, full=method_of(adapter).trains_backbone)
    kind, prompt = record["problem_type"], record.get("prompt")
    data = DataSpec(
        pad_token_id=tokenizer.pad_token_id,
        padding_side="left" if tokenizer.padding_side == "left" else "right",
        cleaning_steps=_cleaning_steps(folder, record),
        prompt=prompt,
    )
    if kind == "masked_language_modeling":
        return MaskedLM(backbone, adapter, data=data)
    if kind == "causal_language_modeling":
        return CausalLM(backbone, adapter, data=data)
    data = replace(data, problem_type=kind, label_names=record["label_names"])
    if prompt is not None:
        data = replace(data, first_tokens_differ=record["scoring"] == "first_token")  # as training found
        return CausalLM(backbone, adapter, scoring=record["scoring"], data=data)
    one_logit = kind == "single_label_classification" and record["num_outputs"] == 1
    loss = BinaryCrossEntropy() if one_logit else None
    return SequenceClassification(backbone, adapter, head=_head(folder), loss=loss, data=data)


def _backbone(folder: Path, trust_remote_code: bool, *, full: bool) -> Backbone:
    record = read_record(folder / BACKBONE_FILE, RunFolderError)
    quantization = None
    if (folder / QUANTIZATION_FILE).is_file():
        quantization = BitsAndBytesConfig.from_dict(read_record(folder / QUANTIZATION_FILE, RunFolderError))
    random = (folder / RANDOM_BASE_FOLDER).is_dir() and not full
    return Backbone(
        None if random else str(folder) if full else record["base_model_name_or_path"],
        config=str(folder / RANDOM_BASE_FOLDER) if random else None,
        config_overrides=record["config_overrides"],
        revision=None if full else record["revision"],
        trust_remote_code=trust_remote_code,
        quantization=quantization,
        dtype=record["dtype"],
    )


def _head(folder: Path) -> Head | None:
    """Rebuild an own head. Its class has to be imported already: nothing is imported because a folder asks."""
    if not (folder / HEAD_FILE).is_file():
        return None
    record = read_record(folder / HEAD_RECORD_FILE, RunFolderError)
    if "class_path" not in record:
        return None
    module_name, _, name = record["class_path"].rpartition(".")
    kind = getattr(sys.modules.get(MOVED.get(module_name, module_name)), name, None)
    if not (isinstance(kind, type) and issubclass(kind, Head)):
        raise RunFolderError(
            f"{folder}: its head is a {record['class_path']}; import {module_name} first, then load again"
        )
    try:
        return kind(**record["init_args"])
    except TypeError as error:
        raise RunFolderError(f"{folder / HEAD_RECORD_FILE}: {kind.__name__} takes other settings ({error})") from error
