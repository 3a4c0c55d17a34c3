"""Run a command line of LightningCLI: check the command and its files, then parse and run it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow
import torch

from peftlit.cli import config_errors, config_places, console, error_mapping
from peftlit.cli.lightning_cli import COMMANDS, PeftlitCLI
from peftlit.cli.parser import Parser
from peftlit.cli.run_selection import NO_RUN_DIR
from peftlit.errors import ConfigError, PeftlitError, RunFolderError
from peftlit.export.locate import find_export
from peftlit.run.folder import RunFolder


def _config_of_run(arguments: list[str]) -> list[str]:
    """Add a finished run's own config where ``validate`` or ``test`` name none."""
    if arguments[0] not in COMMANDS[1:] or config_places.config_files(arguments):
        return arguments
    if run_dir := dict(config_places.options_of(arguments)).get("run_dir"):
        folder = RunFolder(Path(run_dir))
        find_export(folder.path)
        return [arguments[0], "--config", str(folder.config), *arguments[1:]]
    if not {"-h", "--help"} & set(arguments):
        raise RunFolderError(NO_RUN_DIR.format(arguments[0]))
    return arguments


def run(arguments: Sequence[str]) -> PeftlitCLI:
    """Parse a command line, without the program's name, and run it.

    Raises:
        PeftlitError: Anything that the user can fix.
    """
    console.quiet_libraries()
    arguments = list(arguments)
    if arguments[0] not in COMMANDS and not arguments[0].startswith("-"):
        known = (*COMMANDS, "predict")
        near = config_errors.nearest(arguments[0], known)
        raise ConfigError(f"no command {arguments[0]!r}{near} (commands: {', '.join(known)})")
    arguments = _config_of_run(arguments)
    for file in config_places.config_files(arguments):
        if not file.is_file():
            raise ConfigError(f"--config {file}: no such file")
        if problem := config_places.yaml_problem(file):
            raise ConfigError(problem)
    Parser.command_line = arguments
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("JSONARGPARSE_ADD_PRINT_COMPLETION_ARGUMENT", "true")
    torch.set_float32_matmul_precision("high")
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())  # Arrow's own keeps tens of MiB after rows are read
    try:
        with error_mapping.map_missing_attributes():
            return PeftlitCLI(arguments)
    except PeftlitError as error:
        error.args = (config_places.located(str(error), arguments),)
        raise
