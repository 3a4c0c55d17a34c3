"""Run commands on folders that may come from a stranger, and tell what each of them made the process do.

Run as ``python -m tests.contracts.watched JOBS.json``. For each job, one line of JSON: see :func:`answer`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import resource
import sys
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from peftlit import files as foreign
from peftlit.__main__ import main
from peftlit.adapters import peft_method
from peftlit.backbone import weights
from peftlit.checkpoint import format as checkpoint_io
from peftlit.cli import lightning_cli as cli
from peftlit.data.tokenizer import load_tokenizer
from peftlit.export import load, sizes
from peftlit.export import write as export
from peftlit.run.folder import RunFolder

FORBIDDEN_MODULES = ("this", "stranger", "transformers_modules")
"""An installed module that nothing imports, one that lies in folders, and where transformers puts code it downloads."""

PICKLES = (".bin", ".pt", ".pkl", ".ckpt")
GIBIBYTE = 1 << 30

watched: list[str] = []
"""The folder that is being read, where there is one."""
done: list[str] = []


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what must not be done while a folder is read."""
    if not watched:
        return
    if event == "pickle.find_class":
        done.append(f"unpickles {arguments[0]}.{arguments[1]}")
    elif event == "import" and str(arguments[0]).split(".")[0] in FORBIDDEN_MODULES:
        done.append(f"imports {arguments[0]}")
    elif event in ("compile", "exec"):
        file = str(arguments[1] if event == "compile" else getattr(arguments[0], "co_filename", ""))
        if file.startswith(watched[0]) or Path(file).stem in FORBIDDEN_MODULES:  # importlib shows itself only here
            done.append(f"{event}s {file}")
    elif event == "open" and isinstance(arguments[0], str):
        file = arguments[0]
        inside = file.startswith(f"{watched[0]}/")
        led = os.path.realpath(file) if inside else file
        if file.endswith(PICKLES) or (inside and (file.endswith(".py") or not led.startswith(watched[0]))):
            done.append(f"opens {led}")


unpickle = partial(torch.load, weights_only=False)


def head_of(folder: Path) -> None:
    """Import what a head's record names."""
    importlib.import_module(json.loads((folder / "head.json").read_text())["class_path"].rpartition(".")[0])


def with_code(name: str, **arguments: Any) -> Any:
    """Load a tokenizer with the code that comes with it."""
    return load_tokenizer(name, **{**arguments, "trust_remote_code": True})


def nothing(*_: Any, **__: Any) -> None:
    """Check nothing."""


IO = checkpoint_io.AdapterCheckpointIO
UNBOUNDED = [(foreign, "RECORD_LIMIT", 1 << 60), (foreign, "FILE_LIMIT", 1 << 60)]
BREAKERS: dict[str, list[tuple[Any, str, Any]]] = {
    "pickles": [(export, "_read", lambda path: unpickle(path.with_suffix(".bin"))), (load, "check_sizes", nothing)],
    "base pickles": [(weights, "check_base", nothing), (sizes, "check_base", nothing), (sizes, "_PACKED", 1 << 60)],
    "embedded": [(weights, "check_base", nothing)],
    "imports": [(load, "_head", head_of)],
    "fetching": [(peft_method, "_FETCHING_ENTRIES", {})],
    "first values": [(peft_method, "_FIRST_VALUES", {}), (load, "check_sizes", nothing)],
    "code": [(load, "load_tokenizer", with_code)],
    "records": UNBOUNDED,
    "files": UNBOUNDED,
    "links": [(export, "check_folder", nothing)],
    "digests": [(export, "DIGEST_FILE", "none")],
    "run links": [(RunFolder, "refuse_links", nothing)],
    "layers": [(load, "check_sizes", nothing)],
    "sizes": [(load, "check_sizes", nothing)],
    "checkpoint pickles": [(IO, "_read", lambda io, path, **_: unpickle(path))],
    "checkpoint links": [(checkpoint_io, "check_folder", nothing)],
    "checkpoint bounds": [(foreign, "FILE_LIMIT", 1 << 60)],
}
"""What is taken away: where, and what stands there instead."""


def memory(field: str) -> float:
    """A field of /proc/self/status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def answer(arguments: list[str], folder: str, written: list[str], breaker: str | None = None) -> dict[str, Any]:
    """Run a command line on a folder that came from a stranger, maybe without a guard.

    ``written`` is a folder, and the pattern of the files in it that are the answer beside standard output. Returned are
    the exit code, what was printed, the files' digests, what was done that must not be, and by how much memory grew at
    its peak, in MiB.
    """
    out, err = io.StringIO(), io.StringIO()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory("VmRSS")
    watched[:], done[:] = [folder], []
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(cli, "finish_fit", nothing))  # its export would take most of the time
        for patch in BREAKERS.get(breaker or "", []):
            stack.enter_context(mock.patch.object(*patch))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        try:
            code: int | str = main(arguments)
        except Exception as error:  # a traceback to the user
            code = repr(error)
    watched.clear()
    grown = memory("VmHWM") - before
    files = [(file.name, sha256(file.read_bytes()).hexdigest()) for file in sorted(Path(written[0]).glob(written[1]))]
    answered = [out.getvalue(), *files]
    return {"code": code, "answer": answered, "err": err.getvalue(), "done": list(done), "grown": grown}


if __name__ == "__main__":
    sys.addaudithook(watch)
    resource.setrlimit(resource.RLIMIT_DATA, (8 * GIBIBYTE,) * 2)  # what goes wrong here ends here
    jobs = json.loads(Path(sys.argv[1]).read_text())
    Path("stranger.py").write_text("raise AssertionError('imported')")  # it could be imported from here, too
    assert os.getcwd() in sys.path or "" in sys.path
    for job in jobs:
        print(json.dumps(answer(*job)), flush=True)
