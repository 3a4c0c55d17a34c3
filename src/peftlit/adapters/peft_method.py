"""Any adapter of peft: its config as it is, wrapped so that it answers what every method has to answer."""

from __future__ import annotations

import copy
from contextlib import suppress
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from peft import AdamssConfig, PeftConfig, PeftModel, PeftType, ShadowConfig, TaskType, get_peft_model
from peft.tuners.lora import LoraModel
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import PreTrainedModel

from peftlit.adapters.method import AdapterContext, AdapterMethod
from peftlit.adapters.targets import check_targets, is_inside, is_target
from peftlit.backbone.quantization import WEIGHT_INT8
from peftlit.errors import AdapterError, RunFolderError
from peftlit.files import read_record

ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"

_KEYS_AND_VALUES: tuple[object, ...] = (PeftType.PREFIX_TUNING, PeftType.CARTRIDGE)
"""Adapters whose virtual tokens are keys and values, as if the model had read them before."""

_FETCHING_ENTRIES = {"adapters": None, "shadow_model": "mirror"}
"""Entries by which peft loads weights from elsewhere, pickles too, unless they are empty or this."""

_FIRST_VALUES = {"init_lora_weights": True, "prompt_tuning_init": "RANDOM"}
"""How an adapter is initialized does not matter when it is loaded, but some ways read files or change the base."""


class PeftMethod(AdapterMethod):
    """Attach what a ``peft.PeftConfig`` describes.

    Args:
        config: The config; it is copied and never changed.
    """

    weights_file = ADAPTER_FILE

    def __init__(self, config: Any) -> None:
        self.config = config
        if config.is_prompt_learning:
            self.virtual_tokens = config.num_virtual_tokens or 0
            self.virtual_tokens_in_row = config.peft_type not in _KEYS_AND_VALUES

    @property
    def name(self) -> str:
        """The config's class."""
        return type(self.config).__name__

    def check(self, model: PreTrainedModel, context: AdapterContext) -> None:
        """Refuse another task's config, virtual tokens that the model cannot take, and targets that it does not have.

        Raises:
            AdapterError: Saying which setting to change.
        """
        self._check_task(context.task_type)
        self._check_virtual_tokens(model)
        self._check_settings()
        check_targets(self.config, model, type(model).__name__, context.excluded_modules)

    def attach(self, model: PreTrainedModel, context: AdapterContext) -> PeftModel:
        """Wrap the model; the heads become ``modules_to_save``.

        Raises:
            AdapterError: peft would adapt a head or an excluded module, or leaves a head frozen.
        """
        if getattr(self.config, "use_dora", False) and _has_int8_on_cpu(model):
            raise AdapterError(
                "adapter.use_dora: peft's DoRA loses the scales of int8 weights on a CPU; set use_dora: false, or "
                "backbone.quantization: nf4-double"
            )
        config = copy.deepcopy(self.config)
        config.task_type = context.task_type
        if hasattr(config, "modules_to_save"):
            heads = [head.rsplit(".", 1)[-1] for head in context.heads]
            config.modules_to_save = list(dict.fromkeys([*(config.modules_to_save or []), *heads])) or None
        if context.excluded_modules and not isinstance(getattr(config, "exclude_modules", ""), str):
            inside = [name for name, _ in model.named_modules() if is_inside(name, context.excluded_modules)]
            excluded = {name for name in inside if is_target(name, config)}
            config.exclude_modules = sorted({*(config.exclude_modules or []), *excluded}) or None
        wrapped = self.wrap(model, config)
        base = wrapped.get_base_model()
        for name in (*context.heads, *context.excluded_modules):
            _assert_not_adapted(base, name)
        for name in context.heads:
            if not any(parameter.requires_grad for parameter in base.get_submodule(name).parameters()):
                raise AdapterError(f"adapter: {self.name} leaves the head {name!r} frozen")
        return wrapped

    def base_model(self, model: PeftModel) -> PreTrainedModel:
        """Return the transformers model, with the adapter's layers in it."""
        return model.get_base_model()  # type: ignore[return-value]

    def num_parameters(self, model: PreTrainedModel) -> int:
        """Count the weights of the wrapped model; without the adapter's where peft needs the base's values for them."""
        wrapped: Any = model
        with torch.device("meta"), suppress(NotImplementedError, RuntimeError):
            wrapped = get_peft_model(model, copy.deepcopy(self.config))
        return super().num_parameters(wrapped)

    def penalty(self, model: nn.Module) -> Tensor | None:
        """Return KaSA's (arXiv:2412.06071, equations 9 to 12) or MonteCLoRA's, which peft leaves to the training."""
        tuner: Any = model.base_model
        if not isinstance(tuner, LoraModel):
            return None
        # each is the number 0.0 where the adapter is another
        terms = [term for term in (tuner._get_kasa_loss(), tuner._get_monteclora_loss()) if isinstance(term, Tensor)]
        return torch.stack(terms).sum() if terms else None

    def save(self, model: PeftModel, folder: Path, *, base_model: str, revision: str | None) -> None:
        """Write peft's own folder, without embeddings and without peft's empty model card."""
        for config in model.peft_config.values():
            config.base_model_name_or_path = base_model
            config.revision = revision
        model.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
        for config in model.peft_config.values():
            config.inference_mode = False

    def trained_tensors(self, model: PeftModel) -> dict[str, Tensor]:
        """Return the adapter's tensors as peft saves them."""
        tensors: dict[str, Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
        return tensors

    def load(self, model: PeftModel, tensors: dict[str, Tensor]) -> list[str]:
        """Load the adapter's tensors; return the names of those that are not in the model as they were saved.

        The names that peft reports are not enough: prompts and shared vectors are stored under others.
        """
        set_peft_model_state_dict(model, dict(tensors))
        for config in model.peft_config.values():
            config.inference_mode = config.is_prompt_learning  # prompts are saved as their encoder's output
        now = self.trained_tensors(model)
        return sorted(name for name in {*tensors, *now} if not _same(tensors.get(name), now.get(name)))

    def wrap(self, model: PreTrainedModel, config: PeftConfig) -> PeftModel:
        """Return the peft model around the model."""
        return get_peft_model(model, config)

    def _check_task(self, task_type: TaskType | None) -> None:
        if self.config.task_type not in (None, task_type):
            raise AdapterError(
                f"adapter.task_type: {self.config.task_type} does not belong to this task; leave it out"
                + (f" or set {task_type.value}" if task_type else "")
            )
        if self.config.is_prompt_learning and task_type is None:
            raise AdapterError(
                f"adapter: peft has no {self.name} for masked language models; choose one that adapts layers"
            )

    def _check_virtual_tokens(self, model: PreTrainedModel) -> None:
        """Refuse virtual tokens that the forward has no argument for: peft would fail, or they would be dropped."""
        if not self.config.is_prompt_learning:
            return
        if not self.virtual_tokens:
            raise AdapterError(f"adapter.num_virtual_tokens: {self.name} needs it; set a number, such as 20")
        needed = "inputs_embeds" if self.virtual_tokens_in_row else "past_key_values"
        if needed not in signature(model.base_model.forward).parameters:
            raise AdapterError(
                f"adapter: {self.name} needs a model that takes {needed}, and {type(model.base_model).__name__} does "
                "not; choose another adapter, such as peft.LoraConfig"
            )

    def _check_settings(self) -> None:
        """Refuse what peft does only in a loss or a training loop of its own."""
        if isinstance(self.config, ShadowConfig) and self.config.auxiliary_loss_weight:
            raise AdapterError(
                f"adapter.auxiliary_loss_weight: got {self.config.auxiliary_loss_weight}, but peft adds this loss only "
                "to one that the model computes itself, and peftlit computes the loss; set auxiliary_loss_weight: 0"
            )
        if isinstance(self.config, AdamssConfig) and self.config.use_asa:
            raise AdapterError(
                "adapter.use_asa: a run could not be resumed exactly, because the scores that subspaces are chosen by "
                "are in no checkpoint; set use_asa: false"
            )


def read_config(folder: Path) -> PeftConfig:
    """Read an exported adapter's config, so that nothing is fetched or initialized from elsewhere.

    Args:
        folder: The exported folder.

    Raises:
        RunFolderError: It asks peft to load weights from elsewhere.
    """
    path = folder / ADAPTER_CONFIG_FILE
    entries = read_record(path, RunFolderError)
    fetching = [key for key, harmless in _FETCHING_ENTRIES.items() if entries.get(key) not in (None, harmless)]
    if fetching:
        raise RunFolderError(f"{path}: {fetching[0]} makes peft load weights from elsewhere; remove it")
    config: PeftConfig = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = False
    config.base_model_name_or_path = None  # peft would warn where it is not the folder that is loaded from
    for key, value in _FIRST_VALUES.items():
        if hasattr(config, key):
            setattr(config, key, value)
    return config


def _has_int8_on_cpu(model: nn.Module) -> bool:
    return any(isinstance(p, WEIGHT_INT8) and p.device.type == "cpu" for p in model.parameters())


def _assert_not_adapted(base: nn.Module, name: str) -> None:
    layers = ((n, m) for n, m in base.get_submodule(name).named_modules() if isinstance(m, BaseTunerLayer))
    # where embeddings are tied to the head, trainable tokens are in both
    adapted = [n for n, layer in layers if not isinstance(layer, TrainableTokensLayer)]
    if adapted:
        where = f"{name}.{adapted[0]}".rstrip(".")
        raise AdapterError(f"adapter: it would adapt the head ({where}); name other target_modules")


def _same(saved: Tensor | None, loaded: Tensor | None) -> bool:
    return saved is not None and loaded is not None and torch.equal(saved.to(loaded), loaded)
