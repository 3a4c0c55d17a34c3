"""One parser for all tests that only parse."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from peftlit.cli.lightning_cli import PeftlitCLI
from tests.configs.stand_ins import RECIPES, flat


@pytest.fixture(scope="session")
def parser(tmp_path_factory) -> Any:
    """What parses a command line, as LightningCLI has built it."""
    seen: list[PeftlitCLI] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("parsed"))
        patch.setattr(PeftlitCLI, "instantiate_classes", lambda cli: seen.append(cli))
        patch.setattr(PeftlitCLI, "_run_subcommand", lambda cli, command: None)
        PeftlitCLI(["fit", "--config", str(RECIPES[0])])
    return seen[0].parser


@pytest.fixture(scope="session")
def parsed(parser):
    """Return a function that gives the settings of ``fit --config ... --config ...``."""

    @cache
    def parse(*files: Path) -> dict[str, object]:
        arguments = itertools.chain.from_iterable(("--config", str(file)) for file in files)
        settings = parser.parse_args(["fit", *arguments])["fit"].as_dict()
        return {key: value for key, value in flat(settings).items() if key != "config"}

    return parse
