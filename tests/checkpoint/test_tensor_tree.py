from __future__ import annotations

import enum
import json
from collections import OrderedDict

import pytest
import torch

from peftlit.checkpoint.tensor_tree import join_tensors, split_tensors
from peftlit.errors import CheckpointError


def round_trip(tree):
    value, tensors = split_tensors(tree)
    return join_tensors(json.loads(json.dumps(value, allow_nan=False)), tensors)


class Stage(str, enum.Enum):
    FIT = "fit"


TREES = [
    *(None, True, 3, -2.5, float("inf"), -float("inf"), "text", "", [], {}, (), [1, [2, (3, None)]], (1, (2, [3]))),
    {1: "int key", "1": "text key", (0, "a"): "tuple key", None: "no key", 1.5: "float key"},
    {"tensor": "a dict that looks like a mark"},
    {"dict": [["a", 1]]},
    {"a": {"set": {1, 2}}},
    {"b": 1, "a": 2},
    torch.float32,
    {"dtypes": [torch.bfloat16, torch.uint8]},
]


def test_a_tree_comes_back_as_it_was():
    for tree in TREES:
        back = round_trip(tree)
        assert back == tree
        assert type(back) is type(tree), tree
    assert [type(v) for v in round_trip([True, 1, 1.0])] == [bool, int, float]
    assert round_trip([float("nan")])[0] != round_trip([float("nan")])[0]


def test_mappings_become_dicts_in_their_order_and_an_enum_its_value():
    assert list(round_trip(OrderedDict(b=1, a=2))) == ["b", "a"]
    assert round_trip({"stage": Stage.FIT}) == {"stage": "fit"}


def test_a_tensor_comes_back_with_dtype_and_shape():
    for tensor in (
        *(torch.randn(2, 3), torch.tensor(5), torch.zeros(0, 4), torch.randn(3, 4).t(), torch.tensor([True, False])),
        *(torch.ones(3, dtype=torch.bfloat16), torch.arange(4, dtype=torch.uint8), torch.nn.Parameter(torch.ones(2))),
    ):
        back = round_trip({"deep": [{"er": tensor}]})["deep"][0]["er"]
        assert torch.equal(back, tensor)
        assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)


def test_tensors_are_copies_even_where_they_share_memory():
    whole = torch.arange(4.0)
    _, tensors = split_tensors([whole, whole[:2]])
    assert len(tensors) == 2
    whole[0] = 9
    assert all(float(t[0]) == 0 for t in tensors.values())


@pytest.mark.parametrize("odd", [object(), lambda: None, b"bytes", torch.Generator()], ids=lambda o: type(o).__name__)
def test_what_would_need_pickle_is_refused_by_its_path(odd):
    with pytest.raises(CheckpointError, match=r"cannot store \w+ at /callbacks/0/mine without pickle"):
        split_tensors({"callbacks": [{"mine": odd}]})


@pytest.mark.parametrize(
    "value", [{"function": "os.system"}, {"dtype": "save"}, {"a": 1, "b": 2}, {}, {"tensor": "0/absent"}], ids=repr
)
def test_forms_that_are_never_written_are_refused(value):
    with pytest.raises(CheckpointError, match="cannot read an entry of the form"):
        join_tensors(value, {})
