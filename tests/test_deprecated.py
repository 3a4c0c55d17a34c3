"""Import paths of earlier releases work, say where their content is now, and go when they are due."""

import importlib
import sys

import pytest

import peftlit
from peftlit.deprecated import MOVED, REMOVED_IN


def test_old_paths_lead_to_the_same_objects():
    for old, new in MOVED.items():
        sys.modules.pop(old, None)
        with pytest.warns(DeprecationWarning, match=new):
            module = importlib.import_module(old)
        content = importlib.import_module(new)
        for name, value in vars(content).items():
            if getattr(value, "__module__", None) == new:
                assert getattr(module, name) is value, f"{old}.{name}"
        with pytest.raises(AttributeError):
            module.no_such_name  # noqa: B018


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_paths_are_found_by_every_kind_of_import():
    from peftlit.facts import DataFacts

    from peftlit import batch

    assert DataFacts is batch.DataSpec
    names: dict[str, object] = {}
    exec("from peftlit.optim import *", names)
    assert "LinearWarmup" in names
    sys.modules.pop("peftlit.losses", None)
    vars(peftlit).pop("losses", None)
    assert peftlit.losses.CrossEntropy.__module__ == "peftlit.modules.losses"


def test_old_paths_go_when_they_are_due():
    release = tuple(map(int, peftlit.__version__.split(".")[:2]))
    assert release < REMOVED_IN, "delete peftlit/deprecated.py and this file"
