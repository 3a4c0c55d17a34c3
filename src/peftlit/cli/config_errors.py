"""jsonargparse's nested reports as one line: the file, the key, and the nearest valid one."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Sequence
from pkgutil import resolve_name

from peftlit.cli.config_places import ends_with, place_of
from peftlit.errors import ConfigError, PeftlitError

_UNKNOWN = re.compile(
    r"(?:(?:Option|Key) (?='[^']+' is not (?:accepted|expected))"
    r"|(?:Group '(?P<group>[^']+)'|Subcommand '[^']+') does not accept option )'(?P<key>[^']+)'"
)
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
    """Turn jsonargparse's report into one line, with the nearest of the options or classes that there are."""
    options = list(options)
    message = message.replace("the following arguments are required", "not given")
    path = ".".join(_PARSER_KEY.findall(message))
    if match := _UNRECOGNIZED.search(message):
        key = match[1].lstrip("-").partition("=")[0]
        return f"command line: unknown option {match[1]!r}{nearest(key, options, '--')}"
    if match := _UNKNOWN.search(message):
        return _unknown_key(message, match, arguments, options)
    if match := _NO_ATTRIBUTE.search(message):
        module = resolve_name(match[1])
        names = getattr(module, "__all__", dir(module))
        where = place_of(path, arguments, value=match[2])
        return f"{where}: {path}: no class {match[2]!r} in {match[1]}{nearest(match[2], names)}"
    literals = [value for group in _LITERAL.findall(message) for value in re.findall(r"'([^']+)'", group)]
    match = _IMPORT_PATH.search(message)
    if match and not literals and not any(ends_with(found, match[1]) for found in _CLASS_PATH.findall(message)):
        where = place_of(path, arguments, value=match[1])
        return f"{where}: {path}: no class {match[1]!r}{nearest(match[1], class_names)}"
    if match := _PROBLEM.search(message):
        return f"{place_of(path, arguments, value=match[1])}: {path}: {match[1]}: {match[2]}"
    if path and _GIVEN.search(message):
        return _wrong_type(message, path, literals, arguments)
    flat = " ".join(line.strip() for line in message.splitlines() if line.strip())
    return f"{flat}; name a file: --config FILE.yaml" if "not given: " in flat and "config" in options else flat


def _unknown_key(message: str, match: re.Match[str], arguments: Sequence[str], options: Sequence[str]) -> str:
    before = message[: match.start()]
    owners = _CALLABLE.findall(message) if before.endswith("callable class: ") else _CLASS_PATH.findall(before)
    if match["group"] or not owners:
        key = _unknown_part(".".join(filter(None, match.group("group", "key"))), options)
        depth = key.count(".") + 1
        known = dict.fromkeys(".".join(option.split(".")[:depth]) for option in options)
        return f"{place_of(key, arguments)}: unknown key {key!r}{nearest(key, known)}"
    key, owner, path = match["key"].partition(".")[0], owners[-1], ".".join(_PARSER_KEY.findall(before))
    kind = owner.rsplit(".", 1)[-1]
    where = place_of(f"{path}.{key}", arguments, owner=kind)
    if kind in ("LightningModule", "LightningDataModule"):
        return f"{where}: {path}.{key}: no class yet; give the file with {path}.class_path first"
    return f"{where}: unknown key {key!r} of {kind} ({path}){nearest(key, _parameters(owner))}"


def _wrong_type(message: str, path: str, literals: Sequence[str], arguments: Sequence[str]) -> str:
    start = message.rindex("Parser key")
    innermost, classes = message[start:], _CLASS_PATH.findall(message[:start])
    given = [nested or plain for nested, plain in _GIVEN.findall(innermost)][0]
    kinds = [_plain(kind) for kind in _EXPECTED.findall(innermost) if " " not in _plain(kind)]
    if literals:
        kinds = [*literals, *(kind for kind in kinds if kind == "null")]
    expected = ", ".join(dict.fromkeys(k for k in kinds if "Literal" not in k)) or "another type"
    near = nearest(given, literals)
    where = place_of(path, arguments, value=given, owner=classes[-1].rsplit(".", 1)[-1] if classes else "")
    return f"{where}: {path}: got {given!r}, expected {'one of ' if literals else ''}{expected}{near}"


def root_error(error: BaseException) -> PeftlitError:
    """Return the peftlit error that jsonargparse wrapped, or one made of the innermost message."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PeftlitError):
            return cause
        cause = cause.__cause__ or cause.__context__
    if match := _PROBLEM.search(str(error)):
        return ConfigError(f"{match[1]}: {match[2]}")
    wrapped = _WRAPPED.findall(str(error))
    return ConfigError(wrapped[0] if wrapped else " ".join(str(error).split()))


def _unknown_part(path: str, options: Sequence[str]) -> str:
    """Cut a key path after its first unknown part."""
    parts = path.split(".")
    for i in range(1, len(parts) + 1):
        prefix = ".".join(parts[:i])
        if not any(o == prefix or o.startswith(f"{prefix}.") for o in options):
            return prefix
    return path


def _parameters(class_path: str) -> list[str]:
    try:
        return list(inspect.signature(resolve_name(class_path)).parameters)
    except (ImportError, ValueError, AttributeError, TypeError):
        return []


def nearest(key: str, valid: Iterable[str], prefix: str = "") -> str:
    """Return ``; did you mean 'X'?`` for the nearest valid name, nothing where none is near."""
    found = difflib.get_close_matches(key, list(valid), n=1, cutoff=0.5)
    return f"; did you mean {prefix + found[0]!r}?" if found else ""


def _plain(kind: str) -> str:
    kind = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind.strip())
    return re.sub(r"\btyping\.", "", kind).replace("NoneType", "null")
