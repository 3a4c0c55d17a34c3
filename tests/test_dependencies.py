"""The lower bounds of pyproject.toml are the versions that constraints-lowest.txt names, and the tests ran with."""

from __future__ import annotations

import re
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

LOWEST = Path(__file__).parents[1] / "constraints-lowest.txt"


def test_lower_bounds_are_what_was_tested() -> None:
    tested = dict(re.findall(r"^([\w-]+)==([\d.]+)$", LOWEST.read_text(encoding="utf-8"), re.MULTILINE))
    tested = {canonicalize_name(name): Version(version) for name, version in tested.items()}
    needed = [Requirement(one) for one in requires("peftlit") or () if "extra ==" not in one]
    bounds = {canonicalize_name(one.name): Version(str(one.specifier).removeprefix(">=")) for one in needed}
    assert bounds.pop("torch") <= tested.pop("torch")
    assert bounds == tested
