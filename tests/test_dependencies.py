"""The bounds of pyproject.toml: from the versions in constraints-lowest.txt to a lid above those in constraints.txt."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")  # pytest brings tomli to 3.10
PRIVATES_ARE_USED = {"bitsandbytes", "jsonargparse", "lightning", "peft", "torch", "transformers"}


def _needed() -> dict[str, SpecifierSet]:
    project = toml.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [Requirement(one) for one in project["dependencies"]]
    return {canonicalize_name(one.name): one.specifier for one in needed}


def _tested(file: str) -> dict[str, Version]:
    pins = re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in pins}


def _bound(specifiers: SpecifierSet, operator: str) -> Version:
    (bound,) = (Version(one.version) for one in specifiers if one.operator == operator)
    return bound


def test_lower_bounds_are_what_was_tested() -> None:
    tested = _tested("constraints-lowest.txt")
    bounds = {name: _bound(specifiers, ">=") for name, specifiers in _needed().items()}
    assert bounds.pop("torch") <= tested.pop("torch")
    assert bounds == tested


def test_lids_let_in_what_was_tested_and_its_patch_releases_only_where_private_names_are_used() -> None:
    newest = _tested("constraints.txt")
    for name, specifiers in _needed().items():
        lid = _bound(specifiers, "<")
        if name in newest:
            assert newest[name] in specifiers, name
        if name in PRIVATES_ARE_USED:
            assert lid.release == (newest[name].major, newest[name].minor + 1), name
