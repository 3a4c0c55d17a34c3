"""Load an exported folder, ready to answer: the way back from ``RUN/adapter``, own heads included.

The folder may come from a stranger. Nothing in it is unpickled, and nothing is imported because it asks for it.
"""

from __future__ import annotations

import difflib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from transformers import BitsAndBytesConfig, PreTrainedTokenizerBase

from peftlit.adapters import method_of
from peftlit.adapters.adapter import read_adapter
from peftlit.backbone import Backbone
from peftlit.backbone.hardware import current_device_type
from peftlit.batch import DataSpec
from peftlit.data.cleaning import CleaningStep
from peftlit.data.prompt import LabelPrompts, Prompt
from peftlit.data.tokenizer import load_tokenizer
from peftlit.errors import RunFolderError
from peftlit.export.base_record import BACKBONE_FILE, check_base_weights
from peftlit.export.classifier import Classifier
from peftlit.export.generator import Generator
from peftlit.export.mask_filler import MaskFiller
from peftlit.export.predictor import Predictor
from peftlit.export.sizes import check_sizes
from peftlit.export.write import (
    ADAPTER_FOLDER,
    HEAD_FILE,
    HEAD_RECORD_FILE,
    METRICS_FILE,
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
"""A tokenizer that was saved without a length names a number beyond all windows."""


def load(folder: str | Path, *, device: str | None = None, trust_remote_code: bool = False) -> Predictor:
    """Load a trained model.

    Args:
        folder: A run folder, or the ``adapter/`` folder of one, wherever it was copied to.
        device: A torch device; None = the accelerator where there is one, else the CPU.
        trust_remote_code: Run Python code that comes with the backbone.

    Returns:
        A classifier, or what continues prompts or fills gaps, with the weights and the precision in which they were
        exported.

    Raises:
        RunFolderError: The folder is not an export, not a whole one, or holds what should not be followed.
        BackboneError: The base model cannot be found, or is not the one that was trained on.
        OutOfMemoryError: There is too little memory for the model.
    """
    folder = find_export(Path(folder))
    with reading(folder):
        return _load(folder, device, trust_remote_code)


def _load(folder: Path, device: str | None, trust_remote_code: bool) -> Predictor:
    record = read_record(folder / PROBLEM_FILE, RunFolderError)
    tokenizer = load_tokenizer(str(folder), trust_remote_code=trust_remote_code)
    module = _module(folder, record, tokenizer, trust_remote_code)
    check_sizes(module, folder)
    check_base_weights(folder, module.backbone)
    with torch.random.fork_rng():  # what is drawn here is overwritten by what was saved
        module.configure_model(torch.device(device or current_device_type()))
    load_export(module, folder)
    module.eval()
    module.to(device or current_device_type())
    return make_predictor(module, tokenizer, record)


def text_columns(folder: str | Path) -> list[str]:
    """Return the columns that a model's texts stood in: one, or two for pairs. No weights are loaded for it.

    Args:
        folder: As :func:`load` takes it.

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
    """Return what answers with a module.

    Args:
        module: The module, its weights in it.
        tokenizer: The tokenizer it was trained with.
        record: What the module was made for, as it stands in the export.
    """
    if isinstance(module, MaskedLM):
        return MaskFiller(module, tokenizer)
    if isinstance(module, CausalLM) and module.problem is None:
        return Generator(module, tokenizer, chat=record["prompt"]["chat"])
    prompts = None
    if isinstance(module, CausalLM):
        length = min(tokenizer.model_max_length, _LONGEST)
        prompts = LabelPrompts(Prompt(**record["prompt"]), tokenizer, record["label_names"], length)
    return Classifier(module, tokenizer, prompts)


def _module(
    folder: Path, record: dict[str, Any], tokenizer: PreTrainedTokenizerBase, trust_remote_code: bool
) -> PeftModule:
    """Make the module that the records describe; nothing is loaded."""
    adapter = read_adapter(folder)
    backbone = _backbone(folder, trust_remote_code, full=method_of(adapter).trains_backbone)
    padding_side: Literal["left", "right"] = "left" if tokenizer.padding_side == "left" else "right"
    kind, prompt = record["problem_type"], record.get("prompt")
    data = DataSpec(
        pad_token_id=tokenizer.pad_token_id,
        padding_side=padding_side,
        cleaning_steps=_cleaning_steps(folder, record),
        prompt=prompt,
    )
    if kind == "masked_language_modeling":
        return MaskedLM(backbone, adapter, data=data)
    if kind == "causal_language_modeling":
        return CausalLM(backbone, adapter, data=data)
    data = replace(data, problem_type=kind, label_names=record["label_names"])
    if prompt is not None:
        return CausalLM(backbone, adapter, scoring=record["scoring"], data=data)
    one_logit = kind == "single_label_classification" and record["num_outputs"] == 1
    loss = BinaryCrossEntropy() if one_logit else None
    return SequenceClassification(backbone, adapter, head=_head(folder), loss=loss, data=data)


def find_export(folder: Path) -> Path:
    """Find the exported folder: the one that is named, or that of a run.

    Args:
        folder: The exported folder, or the run's.

    Raises:
        RunFolderError: There is none; near names are listed.
    """
    if (folder / BACKBONE_FILE).is_file():
        return folder
    if not folder.is_dir():
        siblings = [path.name for path in folder.parent.iterdir()] if folder.parent.is_dir() else []
        near = difflib.get_close_matches(folder.name, siblings, n=3, cutoff=0.4)
        hint = f"; there are {', '.join(near)}" if near else ""
        raise RunFolderError(f"--run_dir {folder}: no such folder{hint}")
    exported = folder / ADAPTER_FOLDER
    if not exported.is_dir() or not (folder / METRICS_FILE).is_file():
        raise RunFolderError(f"--run_dir {folder}: its fit did not finish (no {ADAPTER_FOLDER}/ with {METRICS_FILE})")
    if not (exported / BACKBONE_FILE).is_file():
        raise RunFolderError(f"{exported}: holds no {BACKBONE_FILE}; this is not a folder that peftlit exported")
    return exported


def _backbone(folder: Path, trust_remote_code: bool, *, full: bool) -> Backbone:
    record = read_record(folder / BACKBONE_FILE, RunFolderError)
    quantization = folder / QUANTIZATION_FILE
    random = (folder / RANDOM_BASE_FOLDER).is_dir() and not full
    return Backbone(
        None if random else str(folder) if full else record["base_model_name_or_path"],
        config=str(folder / RANDOM_BASE_FOLDER) if random else None,
        config_overrides=record["config_overrides"],
        revision=None if full else record["revision"],
        trust_remote_code=trust_remote_code,
        quantization=_quantization(quantization) if quantization.is_file() else None,
        dtype=record["dtype"],
    )


def _quantization(path: Path) -> BitsAndBytesConfig:
    config: BitsAndBytesConfig = BitsAndBytesConfig.from_dict(read_record(path, RunFolderError))
    return config


def _head(folder: Path) -> Head | None:
    """Rebuild an own head. Its class is looked up among what is imported: nothing is imported because a folder asks."""
    if not (folder / HEAD_FILE).is_file():
        return None
    record = read_record(folder / HEAD_RECORD_FILE, RunFolderError)
    if "class_path" not in record:
        return None
    module_name, _, name = record["class_path"].rpartition(".")
    kind = getattr(sys.modules.get(module_name), name, None)
    if not (isinstance(kind, type) and issubclass(kind, Head)):
        raise RunFolderError(
            f"{folder}: its head is a {record['class_path']}; import {module_name} first, then load again"
        )
    try:
        return kind(**record["init_args"])
    except TypeError as error:
        raise RunFolderError(f"{folder / HEAD_RECORD_FILE}: {kind.__name__} takes other settings ({error})") from error
