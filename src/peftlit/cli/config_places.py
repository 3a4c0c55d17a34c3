"""Where the user has set a key: a configuration file and line, or the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from peftlit.errors import in_one_line


class _Setting(NamedTuple):
    """A key with its value, as a user wrote it."""

    path: str  # without init_args
    value: str  # empty unless it is a scalar
    owner: str  # the class_path beside it
    place: str


def options_of(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the options on a command line, without dashes, and their values."""
    for i, argument in enumerate(arguments):
        if argument.startswith("-"):
            name, equals, value = argument.lstrip("-").partition("=")
            yield name, value if equals else "".join(arguments[i + 1 : i + 2])


def config_files(arguments: Sequence[str]) -> list[Path]:
    """List the configuration files on a command line."""
    return [Path(value) for name, value in options_of(arguments) if name in ("config", "c")]


def located(message: str, arguments: Sequence[str]) -> str:
    """Put file and line before a message that starts with the path of a key that the user has set."""
    if match := re.match(r"\w+(?:\.\w+)+(?=: )", message):
        path = match[0].replace(".init_args", "")
        for setting in _settings(arguments):
            if setting.path in (path, f"model.{path}"):
                return f"{setting.place}: {message}"
    return message


def place_of(path: str, arguments: Sequence[str], *, value: str = "", owner: str = "") -> str:
    """Name the place that sets a key, or its nearest parent: a file and line, or the command line.

    Several places are told apart by the value that the key has, or the end of it, and the class that it belongs to.
    """
    settings = list(_settings(arguments))
    while path:
        paths = (path, f"{path}.class_path") if value else (path,)
        if found := [setting for setting in settings if setting.path in paths]:
            return max(found, key=lambda s: ends_with(s.value, value) + ends_with(s.owner, owner)).place
        path = path.rpartition(".")[0]
    return "configuration"


def ends_with(dotted: str, end: str) -> bool:
    """Tell whether a dotted name is ``end``, or its last parts are."""
    return end != "" and f".{dotted}".endswith(f".{end}")


def _settings(arguments: Sequence[str]) -> Iterator[_Setting]:
    """Yield what the user has set, from the last to the first, as later settings override earlier ones."""
    for name, value in reversed(list(options_of(arguments))):
        yield _Setting(name.rstrip("+").replace(".init_args", ""), value, "", "command line")
    for file in reversed(config_files(arguments)):
        tree = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        yield from reversed(list(_settings_in(tree, "", "", file)))


def _settings_in(node: yaml.Node | None, path: str, owner: str, file: Path) -> Iterator[_Setting]:
    """Yield the settings in a YAML tree in their order; the items of a list have the path of the list."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            if isinstance(item, yaml.ScalarNode):
                yield _Setting(path, item.value, owner, f"{file}, line {item.start_mark.line + 1}")
            yield from _settings_in(item, path, owner, file)
    if isinstance(node, yaml.MappingNode):
        owner = next((value.value for key, value in node.value if key.value == "class_path"), owner)
        for key, value in node.value:
            inner = path if key.value in ("init_args", "<<") else f"{path}.{key.value}".lstrip(".")
            text = value.value if isinstance(value, yaml.ScalarNode) else ""
            if inner != path:
                yield _Setting(inner, text, owner, f"{file}, line {key.start_mark.line + 1}")
            yield from _settings_in(value, inner, owner, file)


def yaml_problem(file: Path) -> str | None:
    """Say in one line why a file is not YAML, None if it is."""
    try:
        yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        return f"{file}, line {line}: not YAML: {error.problem}"
    except UnicodeDecodeError:
        return f"{file}: not UTF-8"
    except (yaml.YAMLError, ValueError) as error:  # a control character, a date that is none
        return f"{file}: not YAML: {in_one_line(error)}"
    return None
