"""Split a nested Python object into named tensors and JSON, and join them again, without pickle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from peftlit.errors import CheckpointError


def split_tensors(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """Return a JSON value in which ``{"tensor": name}`` stands for a tensor, and the tensors by name.

    Raises:
        CheckpointError: It holds something else than dicts, lists, tuples, sets, tensors, numbers, strings and None.
    """
    tensors: dict[str, Tensor] = {}
    return _encode(tree, "", tensors), tensors


def join_tensors(value: Any, tensors: Mapping[str, Tensor] | None) -> Any:
    """Join what :func:`split_tensors` returned; without the tensors, None stands in place of each.

    Raises:
        CheckpointError: The JSON has a form that :func:`split_tensors` does not write.
    """
    if isinstance(value, list):
        return [join_tensors(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        kind, content = next(iter(value.items()))
        if kind == "tensor" and (tensors is None or content in tensors):
            return None if tensors is None else tensors[content]
        if kind == "dict":
            return {join_tensors(k, tensors): join_tensors(v, tensors) for k, v in content}
        if kind == "tuple":
            return tuple(join_tensors(v, tensors) for v in content)
        if kind == "set":
            return {join_tensors(v, tensors) for v in content}
        if kind == "float":
            return float(content)
        if kind == "dtype" and isinstance(dtype := getattr(torch, content, None), torch.dtype):
            return dtype
    raise CheckpointError(f"checkpoint: cannot read an entry of the form {sorted(value)}")


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = f"{len(tensors)}{path}"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, Mapping):
        return {"dict": [[_encode(k, path, tensors), _encode(v, f"{path}/{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_encode(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]}
    if isinstance(value, list):
        return [_encode(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]
    if isinstance(value, set | frozenset):
        return {"set": [_encode(v, path, tensors) for v in sorted(value)]}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, str):  # enums and other kinds of text: what they are equal to
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    raise CheckpointError(f"checkpoint: cannot store {type(value).__name__} at {path or '/'} without pickle")
