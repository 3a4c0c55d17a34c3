"""How bitsandbytes stores weights: its configs by short names, and fixes for its layers."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from peftlit.backbone.hardware import low_precision_dtype
from peftlit.errors import BackboneError

# everything but quantization works without bitsandbytes, and nothing is an instance of an empty tuple
_bnb: Any = importlib.import_module("bitsandbytes.nn") if importlib.util.find_spec("bitsandbytes") else None
LINEAR_4BIT: tuple[Any, ...] = (_bnb.Linear4bit,) if _bnb else ()
LINEAR_QUANTIZED: tuple[Any, ...] = (*LINEAR_4BIT, _bnb.Linear8bitLt) if _bnb else ()
WEIGHT_4BIT: tuple[Any, ...] = (_bnb.Params4bit,) if _bnb else ()
WEIGHT_INT8: tuple[Any, ...] = (_bnb.Int8Params,) if _bnb else ()

QuantizationName = Literal["nf4", "nf4-double", "fp4", "fp4-double", "int8"]
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]


def require_bitsandbytes() -> None:
    """Raise a BackboneError where bitsandbytes is not installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BackboneError(
            "backbone.quantization: needs bitsandbytes, which is not installed; "
            "run: pip install bitsandbytes, or set quantization: null"
        )


def build_bnb_config(
    quantization: QuantizationName | BitsAndBytesConfig,
    compute_dtype: DtypeName,
    skip_modules: list[str],
    device_type: str,
) -> BitsAndBytesConfig:
    """Turn a short name, or a copy of a config, into a complete ``BitsAndBytesConfig``.

    Args:
        quantization: A short name, or a config.
        compute_dtype: What layers compute in under a short name; ``auto`` = the best of the hardware.
        skip_modules: All modules that must not be quantized: transformers replaces its own list by this one.
        device_type: Where the layers compute.
    """
    if isinstance(quantization, BitsAndBytesConfig):
        config = copy.deepcopy(quantization)
    elif quantization == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        kind, _, double = quantization.partition("-")
        automatic = low_precision_dtype(device_type)
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=kind,
            bnb_4bit_use_double_quant=bool(double),
            bnb_4bit_compute_dtype=automatic if compute_dtype == "auto" else getattr(torch, compute_dtype),
        )
    config.llm_int8_skip_modules = sorted({*(config.llm_int8_skip_modules or []), *skip_modules})
    return config


def is_quantized(module: nn.Module) -> bool:
    """Tell whether any weight of the module is stored by bitsandbytes."""
    return any(isinstance(p, WEIGHT_4BIT + WEIGHT_INT8) for p in module.parameters())


def require_float(model: nn.Module, names: list[str]) -> None:
    """Raise a BackboneError where one of the heads, which have to train, is quantized."""
    for name in names:
        if is_quantized(model.get_submodule(name)):
            raise BackboneError(f"backbone.quantization: the head {name!r} came out quantized and could not train")


def keep_biases(model: nn.Module) -> None:
    """Keep bitsandbytes' layers from rounding their biases.

    Their forward casts the bias to the input's dtype in place, which under autocast loses its float32 digits. Here
    they cast a copy.
    """
    for module in model.modules():
        if isinstance(module, LINEAR_QUANTIZED) and module.bias is not None:
            module.register_forward_pre_hook(_lend_bias)
            module.register_forward_hook(_take_bias_back, always_call=True)


def _lend_bias(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    bias = module.get_parameter("bias")
    module.__dict__["bias_as_loaded"] = bias  # past nn.Module, which would register it
    del module.bias
    module.bias = bias.to(inputs[0].dtype, copy=True)  # differentiable


def _take_bias_back(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    module.bias = module.__dict__.pop("bias_as_loaded")


def keep_4bit_trainable_on_cpu(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights at the first evaluation forward on a CPU.

    On CPUs with AVX512-BF16, ``Linear4bit`` swaps its weights for an inference layout whose kernel
    has no gradient: training after a validation would silently learn nothing.
    """
    layers: Iterator[Any] = model.modules()
    for layer in layers:
        if isinstance(layer, LINEAR_4BIT) and layer.support_avx512bf16_for_cpu:  # read first: it has to be there
            layer.support_avx512bf16_for_cpu = False


def answer_in_autocast_dtype(model: nn.Module) -> None:
    """Make quantized layers return autocast's dtype under autocast, as plain linear layers do.

    By themselves they return the dtype of their input, and code that relies on the dtype of its projections fails:
    DeBERTa masks its scores with the least number of that dtype, which the scores' own dtype cannot hold. The model
    has its adapter already, as peft gives its layers the names of those they adapt.
    """
    names = [kind.__name__ for kind in LINEAR_QUANTIZED]
    for module in model.modules():
        if type(module).__name__ in names:
            module.register_forward_hook(_to_autocast_dtype)


def _to_autocast_dtype(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    device_type = output.device.type
    return output.to(torch.get_autocast_dtype(device_type)) if torch.is_autocast_enabled(device_type) else output
