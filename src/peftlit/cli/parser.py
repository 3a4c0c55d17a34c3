"""The argument parser: jsonargparse's, with one-line errors."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import ClassVar, NoReturn

import yaml
from lightning import Callback, LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser

from peftlit.cli import config_errors
from peftlit.errors import ConfigError
from peftlit.modules.heads import Head
from peftlit.modules.losses import Loss
from peftlit.modules.optim import Schedule

# some callbacks have enumerations among their settings, which saved configs have to hold
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, value: dumper.represent_str(str(value.value)))


class Parser(LightningArgumentParser):
    """A parser whose errors are one line, for the command line that it holds."""

    command_line: ClassVar[Sequence[str]] = ()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise jsonargparse's report as a ConfigError of one line."""
        if not self.exit_on_error:
            super().error(message, ex)  # a nested class's parser: the outermost one has the whole report
        commands = self._subcommands_action.choices if self._subcommands_action else {}
        options = [action.dest for action in commands.get(self.command_line[0], self)._actions]
        bases = (LightningModule, LightningDataModule, Schedule, Callback, Head, Loss)
        classes = [c.__name__ for base in bases for c in _subclasses(base)]
        raise ConfigError(config_errors.one_line(str(message), self.command_line, options, classes)) from ex


def _subclasses(base: type) -> list[type]:
    children: list[type] = base.__subclasses__()
    return children + [c for child in children for c in _subclasses(child)]
