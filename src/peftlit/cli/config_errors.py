"""Turn jsonargparse's nested reports into one line: the file, the key, and the nearest valid one."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from peftlit.errors import ConfigError, PeftlitError

_UNKNOWN = re.compile(r"Option '([^']+)' is not accepted|Key '([^']+)' is not expected")
_UNKNOWN_IN_GROUP = re.compile(r"Group '([^']+)' does not accept option '([^']+)'")
_UNKNOWN_IN_COMMAND = re.compile(r"Subcommand '[^']+' does not accept option '([^']+)'")
_UNRECOGNIZED = re.compile(r"unrecognized arguments: (\S+)", re.IGNORECASE)
_PARSER_KEY = re.compile(r'Parser key "([^"]+)"')
_CLASS_PATH = re.compile(r"class_path '([^']+)'")
_CALLABLE = re.compile(r"callable class: .*class_path='([^']+)'")
_NO_ATTRIBUTE = re.compile(r"module '([^']+)' has no attribute '([^']+)'")
_IMPORT_PATH = re.compile(r"Expected a dot import path string: (\S+)")
_LITERAL = re.compile(r"Literal\[(.+?)\]")
_EXPECTED = re.compile(r"Expected an? (.+?)(?:\. Got value: .*|, got .*)?$", re.MULTILINE)
_WRAPPED = re.compile(r"^ *- (?!Does not|Expected|Import path|Not a valid|a )(.+)", re.MULTILINE)
_PROBLEM = re.compile(
    r"Problem with given class_path '(?:\w+\.)*(\w+)':\s*\n +(?!Parser key|Does not|Expected|Problem)(\S.*)"
)
_GIVEN = re.compile(r"(?:Given value|Got value): (?:NestedArg\(key='[^']*', val='(.*)'\)|(.+))")
_KEY_PATH = re.compile(r"\w+(?:\.\w+)+(?=: )")


class _Setting(NamedTuple):
    """A key with its value, as a user wrote it."""

    path: str  # without init_args
    value: str  # empty unless it is a scalar
    owner: str  # the class_path beside it
    place: str


def one_line(message: str, arguments: Sequence[str], options: Iterable[str], class_names: Iterable[str]) -> str:
    """Say in one line what is wrong with the configuration.

    Args:
        message: What jsonargparse reports, over many lines.
        arguments: The command line.
        options: All option names of the parser, such as ``trainer.max_epochs``.
        class_names: Short names of classes that can stand as ``class_path``.
    """
    options = list(options)
    path = ".".join(_PARSER_KEY.findall(message))
    if match := _UNRECOGNIZED.search(message):
        key = match[1].lstrip("-").partition("=")[0]
        return f"command line: unknown option {match[1]!r}{nearest(key, options, '--')}"
    if match := _UNKNOWN_IN_COMMAND.search(message):
        return _unknown_option(match[1], arguments, options)
    if match := _UNKNOWN_IN_GROUP.search(message):
        return _unknown_option(f"{match[1]}.{match[2]}", arguments, options)
    if match := _UNKNOWN.search(message):
        leaf, before = match[1] or match[2], message[: match.start()]
        owners = _CALLABLE.findall(message) if before.endswith("callable class: ") else _CLASS_PATH.findall(before)
        if not owners:
            return _unknown_option(leaf, arguments, options)
        leaf, owner, keys = leaf.partition(".")[0], owners[-1], ".".join(_PARSER_KEY.findall(before))
        kind = owner.rsplit(".", 1)[-1]
        where = _where(f"{keys}.{leaf}", arguments, owner=kind)
        if kind in ("LightningModule", "LightningDataModule"):
            return f"{where}: {keys}.{leaf}: no class yet; give the file with {keys}.class_path first"
        return f"{where}: unknown key {leaf!r} of {kind} ({keys}){nearest(leaf, _parameters(owner))}"
    if match := _NO_ATTRIBUTE.search(message):
        module = importlib.import_module(match[1])
        names = getattr(module, "__all__", dir(module))
        where = _where(path, arguments, value=match[2])
        return f"{where}: {path}: no class {match[2]!r} in {match[1]}{nearest(match[2], names)}"
    literals = [value for group in _LITERAL.findall(message) for value in re.findall(r"'([^']+)'", group)]
    match = _IMPORT_PATH.search(message)
    if match and not literals and not any(_ends_with(found, match[1]) for found in _CLASS_PATH.findall(message)):
        where = _where(path, arguments, value=match[1])
        return f"{where}: {path}: no class {match[1]!r}{nearest(match[1], class_names)}"
    if match := _PROBLEM.search(message):
        return f"{_where(path, arguments, value=match[1])}: {path}: {match[1]}: {_spoken(match[2])}"
    if path and _GIVEN.search(message):
        return _wrong_type(message, path, literals, arguments)
    flat = " ".join(line.strip() for line in message.splitlines() if line.strip())
    if "arguments are required" in flat:
        hint = "; name a file: --config FILE.yaml" if "config" in options else ""
        return f"{_spoken(flat)}{hint}"
    return flat


def _spoken(reason: str) -> str:
    return reason.replace("the following arguments are required", "not given")


def _unknown_option(key: str, arguments: Sequence[str], options: Sequence[str]) -> str:
    key = _unknown_part(key, options)
    return f"{_where(key, arguments)}: unknown key {key!r}{nearest(key, _parents(options, key))}"


def _wrong_type(message: str, path: str, literals: Sequence[str], arguments: Sequence[str]) -> str:
    start = message.rindex("Parser key")
    innermost, classes = message[start:], _CLASS_PATH.findall(message[:start])
    given = [nested or plain for nested, plain in _GIVEN.findall(innermost)][0]
    kinds = [_plain(kind) for kind in _EXPECTED.findall(innermost) if " " not in _plain(kind)]
    if literals:
        kinds = [*literals, *(kind for kind in kinds if kind == "null")]
    expected = ", ".join(dict.fromkeys(k for k in kinds if "Literal" not in k)) or "another type"
    near = nearest(given, literals)
    where = _where(path, arguments, value=given, owner=classes[-1].rsplit(".", 1)[-1] if classes else "")
    return f"{where}: {path}: got {given!r}, expected {'one of ' if literals else ''}{expected}{near}"


def root_error(error: BaseException) -> PeftlitError:
    """Find the peftlit error that jsonargparse wrapped, or make one of the innermost message."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PeftlitError):
            return cause
        cause = cause.__cause__ or cause.__context__
    if match := _PROBLEM.search(str(error)):
        return ConfigError(f"{match[1]}: {match[2]}")
    wrapped = _WRAPPED.findall(str(error))
    return ConfigError(wrapped[0] if wrapped else " ".join(str(error).split()))


def options_of(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the options that a command line gives, without dashes, and their values."""
    for i, argument in enumerate(arguments):
        if argument.startswith("-"):
            name, equals, value = argument.lstrip("-").partition("=")
            yield name, value if equals else "".join(arguments[i + 1 : i + 2])


def config_files(arguments: Sequence[str]) -> list[Path]:
    """List the configuration files that a command line names."""
    return [Path(value) for name, value in options_of(arguments) if name in ("config", "c")]


def located(message: str, arguments: Sequence[str]) -> str:
    """Put file and line before a message that starts with the path of a key which the user has set."""
    if match := _KEY_PATH.match(message):
        path = match[0].replace(".init_args", "")
        for setting in _settings(arguments):
            if setting.path in (path, f"model.{path}"):
                return f"{setting.place}: {message}"
    return message


def _where(path: str, arguments: Sequence[str], *, value: str = "", owner: str = "") -> str:
    """Name the place that sets a key, or what is around it: a file and line, or the command line.

    Args:
        path: The key, without ``init_args``.
        arguments: The command line.
        value: What the key is set to, or the end of it, to tell several places apart.
        owner: Name of the class that the key belongs to, likewise.
    """
    settings = list(_settings(arguments))
    while path:
        paths = (path, f"{path}.class_path") if value else (path,)
        if found := [setting for setting in settings if setting.path in paths]:
            return max(found, key=lambda s: _ends_with(s.value, value) + _ends_with(s.owner, owner)).place
        path = path.rpartition(".")[0]
    return "configuration"


def _ends_with(dotted: str, end: str) -> bool:
    return end != "" and f".{dotted}".endswith(f".{end}")


def _settings(arguments: Sequence[str]) -> Iterator[_Setting]:
    """Yield what the user has set, what overrides before what is overridden."""
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


def _unknown_part(path: str, options: Sequence[str]) -> str:
    """Cut a key path after its first unknown part."""
    parts = path.split(".")
    for i in range(1, len(parts) + 1):
        prefix = ".".join(parts[:i])
        if not any(o == prefix or o.startswith(f"{prefix}.") for o in options):
            return prefix
    return path


def _parents(options: Sequence[str], key: str) -> list[str]:
    depth = key.count(".") + 1
    return list(dict.fromkeys(".".join(option.split(".")[:depth]) for option in options))


def _parameters(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    try:
        return list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
    except (ImportError, ValueError, AttributeError, TypeError):
        return []


def nearest(key: str, valid: Iterable[str], prefix: str = "") -> str:
    """Return ``; did you mean 'X'?`` for the nearest valid name, nothing where none is near."""
    found = difflib.get_close_matches(key, list(valid), n=1, cutoff=0.5)
    return f"; did you mean {prefix + found[0]!r}?" if found else ""


def _plain(kind: str) -> str:
    kind = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind.strip())
    return re.sub(r"\btyping\.", "", kind).replace("NoneType", "null")


def yaml_problem(file: Path) -> str | None:
    """Say in one line why a file is not YAML, None if it is."""
    try:
        yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        return f"{file}, line {line}: not YAML: {error.problem}"
    except UnicodeDecodeError:
        return f"{file}: not UTF-8"
    return None
