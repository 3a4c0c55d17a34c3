"""The base model of a run: which weights, how quantized, in which dtype."""

from __future__ import annotations

import copy
import logging
import re
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import CONFIG_NAME

from peftlit.backbone import model_source
from peftlit.backbone.quantization import (
    DtypeName,
    QuantizationName,
    build_bnb_config,
    require_bitsandbytes,
)
from peftlit.errors import BackboneError, ConfigError, first_line
from peftlit.files import read_record

log = logging.getLogger(__name__)

_Scalar = str | int | float | bool | None
_Value = _Scalar | list[_Scalar] | dict[str, _Scalar]
_Nested = _Scalar | list[_Value] | dict[str, _Value]
ConfigEntries = dict[str, _Scalar | list[_Nested] | dict[str, _Nested]]
"""Entries of a model's config. No value is Any, as jsonargparse would parse its text once more ("12", "no", "a: b")."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


class Backbone:
    """The frozen base model: how to load it, without any weights.

    Args:
        name_or_path: Hub id, local folder, GGUF file (converted once to bfloat16), or ``package:NAME`` for weights of
            either kind inside an installed Python package (``package:NAME/FILE.gguf`` where it holds several).
        config: Random weights of a real architecture, to measure speed and memory: a folder or file with a
            ``config.json``, or its content with ``model_type``. Give this or ``name_or_path``.
        config_overrides: Entries of the model's config to replace.
        revision: Branch, tag or commit of a hub id.
        trust_remote_code: Run Python code that comes with the weights. A hub id then needs a ``revision``.
        attn_implementation: ``eager``, ``sdpa``, ``flash_attention_2`` ...; unset = transformers' choice.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, more time.
        quantization: How linear layers are stored: a short name, or a ``transformers.BitsAndBytesConfig``.
        dtype: How the remaining frozen weights are stored; ``auto`` = as saved, float32 where the Trainer
            computes in float32 or all weights train.
        compute_dtype: What quantized layers compute in; ``auto`` = bfloat16 where the hardware has it.
        sha256: Expected digest of ``model.safetensors``, or of the GGUF file, checked before loading.
    """

    def __init__(
        self,
        name_or_path: str | None = None,
        *,
        config: str | ConfigEntries | None = None,
        config_overrides: ConfigEntries | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        attn_implementation: str | None = None,
        gradient_checkpointing: bool = False,
        quantization: QuantizationName | BitsAndBytesConfig | None = None,
        dtype: DtypeName = "auto",
        compute_dtype: DtypeName = "auto",
        sha256: str | None = None,
    ) -> None:
        if (name_or_path is None) == (config is None):
            raise ConfigError(
                "backbone: give name_or_path (trained weights) or config (random weights), one of the two"
            )
        packaged = name_or_path is not None and name_or_path.startswith(model_source.PACKAGE_PREFIX)
        local = name_or_path is None or packaged or Path(name_or_path).exists()
        if trust_remote_code and not local and not _COMMIT.fullmatch(revision or ""):
            raise ConfigError(
                f"backbone.revision: got {revision!r}; to run code of {name_or_path!r}, pin the commit (40 hex digits) "
                "that you have read"
            )
        if quantization is not None:
            require_bitsandbytes()
        self.name_or_path = name_or_path
        self.config = config
        self.config_overrides = config_overrides or {}
        self.revision = revision
        self.trust_remote_code = trust_remote_code
        self.attn_implementation = attn_implementation
        self.gradient_checkpointing = gradient_checkpointing
        self.quantization = quantization
        self.dtype = dtype
        self.compute_dtype = compute_dtype
        self.sha256 = sha256

    @property
    def location(self) -> str | None:
        """Where the weights are: hub id or absolute folder; None for random weights."""
        return None if self.name_or_path is None else model_source.resolve(self.name_or_path)

    def read_config(self, **updates: Any) -> PretrainedConfig:
        """Read the model's config, apply the overrides, then ``updates``.

        Args:
            **updates: Entries that the task sets, such as ``num_labels``.

        Raises:
            BackboneError: The model id cannot be reached or is no model.
            ConfigError: An override names an entry that the config does not have.
        """
        config = self._source_config()
        unknown = [key for key in self.config_overrides if not hasattr(config, key)]
        if unknown:
            raise ConfigError(f"backbone.config_overrides: {unknown[0]!r} is no entry of {type(config).__name__}")
        for key, value in {**self.config_overrides, **updates}.items():
            setattr(config, key, value)
        if self.attn_implementation is not None:
            config._attn_implementation = self.attn_implementation
        elif "/" in str(config._attn_implementation):  # ORGANISATION/KERNEL
            raise BackboneError(
                f"backbone: the config of {self.location or 'the model'} asks for code from the hub "
                f"({config._attn_implementation}); set backbone.attn_implementation, for instance to sdpa"
            )
        return config

    def _source_config(self) -> PretrainedConfig:
        if isinstance(self.config, dict):
            if "model_type" not in self.config:
                raise ConfigError("backbone.config: needs a model_type, such as distilbert")
            entries: dict[str, Any] = dict(self.config)
            try:
                return AutoConfig.for_model(entries.pop("model_type"), **entries)
            except ValueError as error:
                raise ConfigError(f"backbone.config: {first_line(error)}") from error
        source = self.location or str(self.config)
        file = Path(source, CONFIG_NAME) if Path(source).is_dir() else Path(source)
        if file.is_file():
            read_record(file, BackboneError)  # transformers would read one of any size
        try:
            config: PretrainedConfig = AutoConfig.from_pretrained(
                source, revision=self.revision, trust_remote_code=self.trust_remote_code
            )
            return config
        except ImportError as error:
            raise _missing_package(source, error) from error
        except (OSError, ValueError) as error:
            if "trust_remote_code" in str(error):
                raise BackboneError(
                    f"backbone: {source} brings its own code; read it, then set trust_remote_code: true"
                ) from error
            raise BackboneError(
                f"backbone: cannot read a model from {source!r} (neither a folder with a config.json nor a "
                "model id that can be reached); give a local folder: backbone.name_or_path: /path/to/model"
            ) from error

    def meta_model(self, auto_class: Any, config: PretrainedConfig) -> PreTrainedModel:
        """Build the model on the meta device: names and shapes only.

        Raises:
            BackboneError: The architecture has no class for this task, misses a package, or does not support
                gradient checkpointing though it is set.
        """
        try:
            with torch.device("meta"):
                model: PreTrainedModel = auto_class.from_config(copy.deepcopy(config), **self._code_arguments(config))
        except ImportError as error:
            raise _missing_package(config.model_type, error) from error
        except ValueError as error:
            raise BackboneError(
                f"backbone: {config.model_type!r} models have no {auto_class.__name__}; {_instead(auto_class)}"
            ) from error
        if self.gradient_checkpointing and not model.supports_gradient_checkpointing:
            raise BackboneError(
                f"backbone.gradient_checkpointing: {type(model).__name__} does not support gradient checkpointing; "
                "set it to false"
            )
        return model

    def quantization_config(self, skip_modules: list[str], device_type: str) -> BitsAndBytesConfig | None:
        """Return the config of the quantization, None without one; ``skip_modules`` stay in float."""
        if self.quantization is None:
            return None
        return build_bnb_config(self.quantization, self.compute_dtype, skip_modules, device_type)

    def _code_arguments(self, config: PretrainedConfig) -> dict[str, Any]:
        return {"trust_remote_code": self.trust_remote_code} if hasattr(config, "auto_map") else {}


def _instead(auto_class: Any) -> str:
    other = {
        AutoModelForMaskedLM: "if they read from left to right, use CausalLM",
        AutoModelForCausalLM: "if they see the whole text at once, use MaskedLM",
    }
    return other.get(auto_class, "for a classifier give them a head of ours: model.head: {class_path: PooledHead}")


def _missing_package(source: str, error: ImportError) -> BackboneError:
    return BackboneError(
        f"backbone: the code of {source!r} misses something: {first_line(error)}; install it, or switch off what "
        "needs it with backbone.config_overrides"
    )
