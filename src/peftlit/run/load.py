"""Load an exported folder, ready to answer: the way back from ``RUN/adapter``, own heads included."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from peft import PeftConfig
from transformers import BitsAndBytesConfig

from peftlit.adapters import Adapter, FullFineTuning
from peftlit.backbone import Backbone
from peftlit.data.tokenizer import load_tokenizer
from peftlit.errors import RunFolderError
from peftlit.hardware import current_device_type
from peftlit.heads import Head
from peftlit.losses import BinaryCrossEntropy
from peftlit.modules import SequenceClassification
from peftlit.problems import PROBLEM_FILE
from peftlit.run.classifier import Classifier
from peftlit.run.export import (
    BACKBONE_FILE,
    HEAD_FILE,
    HEAD_RECORD_FILE,
    QUANTIZATION_FILE,
    RANDOM_BASE_FOLDER,
    load_export,
    read_record,
)
from peftlit.run.folder import RunFolder


def load(folder: str | Path, *, device: str | None = None, trust_remote_code: bool = False) -> Classifier:
    """Load a trained classifier.

    Args:
        folder: A run folder, or the ``adapter/`` folder of one, wherever it was copied to.
        device: A torch device; None = the accelerator where there is one, else the CPU.
        trust_remote_code: Run Python code that comes with the backbone.

    Returns:
        The classifier, with the weights and the precision in which they were exported.

    Raises:
        RunFolderError: The folder is not an export, or not a whole one.
        BackboneError: The base model cannot be found, or is not the one that was trained on.
    """
    folder = _exported(Path(folder))
    problem = read_record(folder / PROBLEM_FILE)
    one_logit = problem["problem_type"] == "single_label_classification" and problem["num_outputs"] == 1
    tokenizer = load_tokenizer(str(folder), trust_remote_code=trust_remote_code)
    adapter = _adapter(folder)
    module = SequenceClassification(
        _backbone(folder, trust_remote_code, full=isinstance(adapter, FullFineTuning)),
        adapter,
        head=_head(folder),
        loss=BinaryCrossEntropy() if one_logit else None,
        problem_type=problem["problem_type"],
        label_names=problem["label_names"],
        pad_token_id=tokenizer.pad_token_id,
        padding_side="left" if tokenizer.padding_side == "left" else "right",
    )
    with torch.random.fork_rng():  # what is drawn here is overwritten by what was saved
        module.configure_model(torch.device(device or current_device_type()))
    load_export(module, folder)
    module.eval()
    return Classifier(module.to(device or current_device_type()), tokenizer)


def _exported(folder: Path) -> Path:
    if (folder / BACKBONE_FILE).is_file():
        return folder
    run = RunFolder(folder)
    run.require_adapter()
    if not (run.adapter / BACKBONE_FILE).is_file():
        raise RunFolderError(f"{run.adapter}: holds no {BACKBONE_FILE}; this is not a folder that peftlit exported")
    return run.adapter


def _backbone(folder: Path, trust_remote_code: bool, *, full: bool) -> Backbone:
    record = read_record(folder / BACKBONE_FILE)
    quantized = (folder / QUANTIZATION_FILE).is_file()
    random = (folder / RANDOM_BASE_FOLDER).is_dir() and not full
    return Backbone(
        None if random else str(folder) if full else record["base_model_name_or_path"],
        config=str(folder / RANDOM_BASE_FOLDER) if random else None,
        config_overrides=record["config_overrides"],
        revision=None if full else record["revision"],
        trust_remote_code=trust_remote_code,
        quantization=BitsAndBytesConfig.from_dict(read_record(folder / QUANTIZATION_FILE)) if quantized else None,
        dtype=record["dtype"],
    )


def _adapter(folder: Path) -> Adapter:
    if (folder / "adapter_config.json").is_file():
        config: PeftConfig = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = False
        if hasattr(config, "init_lora_weights"):  # the first values do not matter, but some ways to find them ...
            config.init_lora_weights = True  # ... change the base
        return config
    return FullFineTuning() if (folder / "model.safetensors").is_file() else None


def _head(folder: Path) -> Head | None:
    """Rebuild an own head. Its class is looked up among what is imported: nothing is imported because a folder asks."""
    if not (folder / HEAD_FILE).is_file():
        return None
    record = read_record(folder / HEAD_RECORD_FILE)
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
