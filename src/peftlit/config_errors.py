"""Turn jsonargparse's nested reports into one line: the file, the key, and the nearest valid one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse._parameter_resolvers import get_signature_parameters
from jsonargparse._util import import_object

_UNKNOWN = re.compile(r"Option '([^']+)' is not accepted|Key '([^']+)' is not expected")
_UNKNOWN_PATH = re.compile(r"does not accept option '([^']+)'")
_UNRECOGNIZED = re.compile(r"unrecognized arguments: (.+)", re.IGNORECASE)
_PARSER_KEY = re.compile(r'Parser key "([^"]+)"')
_CLASS_PATH = re.compile(r"class_path '([^']+)'")
_CALLABLE_PATH = re.compile(r"class_path='([^']+)'")
_IMPORT_PATH = re.compile(r"Expected a dot import path string: (\S+)")
_EXPECTED = re.compile(r"Expected an? (.+?)(?: but .*)?$", re.MULTILINE)
_GIVEN = re.compile(r"Given value: (.+)")


def one_line(message: str, arguments: Sequence[str], options: Iterable[str], class_names: Iterable[str]) -> str:
    """Say in one line what is wrong with the configuration.

    Args:
        message: What jsonargparse reports, over many lines.
        arguments: The command line.
        options: All option names of the parser, such as ``trainer.max_epochs``.
        class_names: Short names of classes that can stand as ``class_path``.
    """
    options = list(options)
    if match := _UNRECOGNIZED.search(message):
        first = match[1].split()[0]
        key = first.lstrip("-").partition("=")[0]
        return f"command line: unknown option {first!r}{nearest(key, options, '--')}"
    if match := _UNKNOWN_PATH.search(message):
        key = _unknown_part(match[1], options)
        return f"{_where(key, arguments)}: unknown key {key!r}{nearest(key, _parents(options, key))}"
    path = ".".join(_PARSER_KEY.findall(message))
    if match := _UNKNOWN.search(message):
        leaf = match[1] or match[2]
        before = message[: match.start()]
        owner = (_CLASS_PATH.findall(before) or _CALLABLE_PATH.findall(message) or [""])[-1]
        keys = ".".join(_PARSER_KEY.findall(before))
        of = f" of {owner.rsplit('.', 1)[-1]}" if owner else ""
        return f"{_where(leaf, arguments)}: unknown key {leaf!r}{of} ({keys}){nearest(leaf, _parameters(owner))}"
    if match := _IMPORT_PATH.search(message):
        return f"{_where(match[1], arguments)}: {path}: no class {match[1]!r}{nearest(match[1], class_names)}"
    if _GIVEN.search(message) and path:
        innermost = message[message.rindex("Parser key") :]
        given = _GIVEN.search(innermost)
        kinds = [k for k in dict.fromkeys(_EXPECTED.findall(innermost)) if "path" not in k]
        expected = " or ".join(_plain(k) for k in kinds) or "another type"
        value = given[1] if given else "?"
        return f"{_where(path.rsplit('.', 1)[-1], arguments)}: {path}: got {value!r}, expected {expected}"
    flat = " ".join(line.strip() for line in message.splitlines() if line.strip())
    return flat.replace("the following arguments are required: ", "required and not given: ")


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
            if re.search(rf"(^|[\s{{,\[\"']){re.escape(leaf)}($|[\s:}},\]\"'])", line):
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
    try:
        parameters: list[Any] = get_signature_parameters(import_object(class_path), "__init__")
    except (ImportError, ValueError, AttributeError):
        return []
    return [p.name for p in parameters]


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
