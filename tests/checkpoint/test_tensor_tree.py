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
    return join_tensors(json.loads(json.dumps(value)), tensors)


@pytest.mark.parametrize(
    "tree",
    [
        None,
        True,
        3,
        -2.5,
        "text",
        "",
        [],
        {},
        (),
        [1, [2, (3, None)]],
        {1: "int key", "1": "text key", (0, "a"): "tuple key", None: "no key", 1.5: "float key"},
        {"tensor": "a dict that looks like a mark"},
        {"dict": [["a", 1]]},
        {"a": {"set": {1, 2}}},
        (1, (2, [3])),
        torch.float32,
        {"dtypes": [torch.bfloat16, torch.uint8]},
    ],
    ids=repr,
)
def test_a_tree_comes_back_as_it_was(tree):
    back = round_trip(tree)
    assert back == tree
    assert type(back) is type(tree)


def test_true_and_one_stay_apart():
    assert [type(v) for v in round_trip([True, 1, 1.0])] == [bool, int, float]


@pytest.mark.parametrize("number", [float("inf"), -float("inf")])
def test_infinite_numbers_come_back(number):
    assert round_trip({"best": number}) == {"best": number}


def test_not_a_number_comes_back():
    assert round_trip([float("nan")])[0] != round_trip([float("nan")])[0]


def test_plain_json_is_written():
    json.dumps(split_tensors({"a": float("nan"), "b": float("inf")})[0], allow_nan=False)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(2, 3),
        torch.tensor(5),
        torch.zeros(0, 4),
        torch.randn(3, 4).t(),
        torch.ones(3, dtype=torch.bfloat16),
        torch.arange(4, dtype=torch.uint8),
        torch.tensor([True, False]),
        torch.nn.Parameter(torch.ones(2)),
    ],
    ids=lambda t: f"{t.dtype}{tuple(t.shape)}",
)
def test_a_tensor_comes_back_with_dtype_and_shape(tensor):
    back = round_trip({"deep": [{"er": tensor}]})["deep"][0]["er"]
    assert torch.equal(back, tensor)
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)


def test_tensors_are_copies_even_where_they_share_memory():
    whole = torch.arange(4.0)
    _, tensors = split_tensors([whole, whole[:2]])
    assert len(tensors) == 2
    whole[0] = 9
    assert all(float(t[0]) == 0 for t in tensors.values())


def test_an_optimizers_state_comes_back():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=torch.tensor(0.1))
    weight.grad = torch.ones(3)
    optimizer.step()
    state, back = optimizer.state_dict(), round_trip(optimizer.state_dict())
    assert back["param_groups"] == state["param_groups"]
    assert set(back["state"]) == {0}
    assert all(torch.equal(back["state"][0][k], v) for k, v in state["state"][0].items())


def test_mappings_become_dicts_in_their_order():
    assert list(round_trip(OrderedDict(b=1, a=2))) == ["b", "a"]


def test_an_enum_is_stored_as_its_value():
    class Stage(str, enum.Enum):
        FIT = "fit"

    assert round_trip({"stage": Stage.FIT}) == {"stage": "fit"}


@pytest.mark.parametrize("odd", [object(), lambda: None, b"bytes", torch.Generator()], ids=lambda o: type(o).__name__)
def test_what_would_need_pickle_is_refused_by_its_path(odd):
    with pytest.raises(CheckpointError, match=r"cannot store \w+ at /callbacks/0/mine without pickle"):
        split_tensors({"callbacks": [{"mine": odd}]})


@pytest.mark.parametrize("value", [{"function": "os.system"}, {"dtype": "save"}, {"a": 1, "b": 2}, {}], ids=repr)
def test_forms_that_are_never_written_are_refused(value):
    with pytest.raises(CheckpointError, match="cannot read an entry of the form"):
        join_tensors(value, {})


def test_a_tensor_that_is_missing_is_one_of_our_errors():
    with pytest.raises(CheckpointError):
        join_tensors({"tensor": "0/absent"}, {})
