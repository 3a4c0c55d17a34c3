"""Turn jsonargparse's nested reports into one line: the file, the key, and the nearest valid one."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

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
        if owner.rsplit(".", 1)[-1] in ("LightningModule", "LightningDataModule"):
            return f"{_where(leaf, arguments)}: {keys}.{leaf}: no class yet; give the file with {keys}.class_path first"
        of = f"of {owner.rsplit('.', 1)[-1]} ({keys})"
        return f"{_where(leaf, arguments)}: unknown key {leaf!r} {of}{nearest(leaf, _parameters(owner))}"
    if match := _NO_ATTRIBUTE.search(message):
        module = importlib.import_module(match[1])
        names = getattr(module, "__all__", dir(module))
        return f"{_where(match[2], arguments)}: {path}: no class {match[2]!r} in {match[1]}{nearest(match[2], names)}"
    literals = [value for group in _LITERAL.findall(message) for value in re.findall(r"'([^']+)'", group)]
    if (match := _IMPORT_PATH.search(message)) and not literals:
        return f"{_where(match[1], arguments)}: {path}: no class {match[1]!r}{nearest(match[1], class_names)}"
    if match := _PROBLEM.search(message):
        return f"{_where(match[1], arguments)}: {path}: {match[1]}: {_spoken(match[2])}"
    if path and _GIVEN.search(message):
        return _wrong_type(message[message.rindex("Parser key") :], path, literals, arguments)
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


def _wrong_type(innermost: str, path: str, literals: Sequence[str], arguments: Sequence[str]) -> str:
    given = [nested or plain for nested, plain in _GIVEN.findall(innermost)][0]
    kinds = [_plain(kind) for kind in _EXPECTED.findall(innermost) if " " not in _plain(kind)]
    if literals:
        kinds = [*literals, *(kind for kind in kinds if kind == "null")]
    expected = ", ".join(dict.fromkeys(k for k in kinds if "Literal" not in k)) or "another type"
    near = nearest(given, literals)
    where = _where(path.rsplit(".", 1)[-1], arguments)
    return f"{where}: {path}: got {given!r}, expected {'one of ' if literals else ''}{expected}{near}"


def root_error(error: BaseException) -> PeftlitError:
    """Find the peftlit error that jsonargparse wrapped, or make one of the innermost message.

    Args:
        error: What instantiating a class raised.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PeftlitError):
            return cause
        cause = cause.__cause__ or cause.__context__
    if match := _PROBLEM.search(str(error)):
        return ConfigError(f"{match[1]}: {match[2]}")
    wrapped = _WRAPPED.findall(str(error))
    return ConfigError(wrapped[0] if wrapped else " ".join(str(error).split()))


def config_files(arguments: Sequence[str]) -> list[Path]:
    """List the configuration files that a command line names.

    Args:
        arguments: The command line.
    """
    files = []
    for i, argument in enumerate(arguments):
        option, _, value = argument.partition("=")
        if option in ("--config", "-c"):
            files.append(Path(value or (arguments[i + 1] if i + 1 < len(arguments) else "")))
    return files


def _where(key: str, arguments: Sequence[str]) -> str:
    """Name the file and line that holds a key or value, else the command line."""
    leaf = key.rsplit(".", 1)[-1]
    if any(re.search(rf"(^|\.){re.escape(leaf)}(=|$)", a.lstrip("-")) for a in arguments if a.startswith("--")):
        return "command line"
    for file in reversed(config_files(arguments)):
        if not file.is_file():
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if re.search(rf"(^|[\s{{,.\[\"']){re.escape(leaf)}($|[\s:}},\]\"'])", line):
                return f"{file}, line {number}"
    return "configuration"


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
    """Return ``; did you mean 'X'?`` for the nearest valid name, nothing where none is near.

    Args:
        key: What came.
        valid: The valid names.
        prefix: What to put before the name.
    """
    found = difflib.get_close_matches(key, list(valid), n=1, cutoff=0.5)
    return f"; did you mean {prefix + found[0]!r}?" if found else ""


def _plain(kind: str) -> str:
    kind = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind.strip())
    return re.sub(r"\btyping\.", "", kind).replace("NoneType", "null")


def yaml_problem(file: Path) -> str | None:
    """Say in one line why a file is no YAML, None if it is.

    Args:
        file: The file.
    """
    try:
        yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        return f"{file}, line {line}: not YAML: {error.problem}"
    except UnicodeDecodeError:
        return f"{file}: not UTF-8"
    return None


def raised_by_lightning(error: BaseException) -> bool:
    """Tell whether an error is Lightning's own complaint about a setting, rather than a failure in a step.

    Args:
        error: The exception.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).startswith("lightning.")
