"""Second Pythons in a moment: forks of a server that has imported the libraries, and run nothing else.

``python -m tests.fork_server NAME`` is such a server. ``plain`` has never seen peftlit, so that a reload check in a
fork of it needs none; ``peftlit`` has imported all. :func:`run` takes the place of ``subprocess.run`` and starts the
server that it needs, one for all tests of a worker.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import random
import runpy
import select
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

VARIABLE = "PEFTLIT_FORK_SERVERS"
"""Names the folder with the servers' sockets."""

ROOT = Path(__file__).parents[1]
PLAIN = ["accelerate", "bitsandbytes", "peft", "safetensors.torch", "transformers", "transformers.modeling_utils"]
PLAIN += [f"transformers.models.{name}.modeling_{name}" for name in ("bert", "distilbert", "gpt2", "llama", "roberta")]
IMPORTS = {
    "plain": PLAIN,
    "peftlit": [*PLAIN, "peftlit.cli.commands", "peftlit.export.load", "peftlit.export.reload_check"],
}


@contextmanager
def serving() -> Iterator[None]:
    """Let servers be started for as long as this lasts."""
    folder = tempfile.mkdtemp(prefix="fork")
    Path(folder, "environment.json").write_text(json.dumps(dict(os.environ)))
    os.environ[VARIABLE] = folder
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        shutil.rmtree(folder)  # servers end without it


def run(
    command: Sequence[object],
    *,
    cwd: Path | str | None = None,
    env: dict[str, str] | None = None,
    capture_output: bool = True,
    text: bool = True,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``[sys.executable, "-c", code, ...]``, or with ``-m`` a module, in a fork of a server."""
    _, *arguments = map(str, command)
    environment = dict(os.environ if env is None else env)
    needs_peftlit = any(f"{word} peftlit" in " ".join(arguments[:2]) for word in ("-m", "import", "from"))
    with _connect("peftlit" if needs_peftlit else "plain", Path(environment[VARIABLE])) as connection:
        job = {"arguments": arguments, "cwd": str(cwd or Path.cwd()), "environment": environment}
        connection.settimeout(timeout)
        connection.sendall(json.dumps(job).encode() + b"\n")
        try:
            answer = json.loads(connection.makefile("r").readline())
        except TimeoutError as error:
            raise subprocess.TimeoutExpired(arguments, timeout or 0.0) from error
    return subprocess.CompletedProcess(arguments, **answer)


def _connect(name: str, folder: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two that ask for the same server start it once
        if not (folder / name).exists():
            _start(name, folder)
    connection.connect(str(folder / name))
    return connection


def _start(name: str, folder: Path) -> None:
    environment = json.loads((folder / "environment.json").read_text())
    environment |= {VARIABLE: str(folder), "OMP_NUM_THREADS": "1"}
    with (folder / f"{name}.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.fork_server", name], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
        )  # fmt: skip
    assert server.stdout is not None
    if server.stdout.readline() != "ready\n":
        raise RuntimeError((folder / f"{name}.log").read_text())
    server.returncode = 0  # nobody waits for it: it ends when its folder has gone


class _Job(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        job = json.loads(self.rfile.readline())
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = os.fork()
            if child == 0:
                os.chdir(job["cwd"])
                os.environ.clear()
                os.environ.update(job["environment"])
                become_a_process(out.fileno(), err.fileno())
                leave_with(lambda: _interpret(job["arguments"], job["cwd"]))
            code = self._wait(child)
            texts = [file.seek(0) or file.read().decode(errors="replace") for file in (out, err)]
        answer = {"returncode": code, "stdout": texts[0], "stderr": texts[1]}
        with suppress(BrokenPipeError):
            self.wfile.write(json.dumps(answer).encode() + b"\n")

    def _wait(self, child: int) -> int:
        """Wait for the job to end; end it where whoever asked was killed, or waits no longer."""
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            if select.select([self.connection], [], [], 0.01)[0]:  # nothing is sent after the job but the end
                with suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
                return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _interpret(arguments: list[str], cwd: str) -> None:
    """Do what ``python ARGUMENTS`` does, once it has started."""
    option, what, *rest = arguments
    sys.argv = [option, *rest]
    if option == "-m":
        sys.path[0] = cwd
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = ""
        sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), sys.modules["__main__"].__dict__)


def become_a_process(out: int, err: int) -> None:
    """Let go of what a fork shares with its parent: terminal, group, threads, and the numbers it would draw."""
    import torch

    os.setsid()
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    # threads of the parent's are not here, and what waits for them would wait for ever
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    random.seed()


def leave_with(begin: Callable[[], Any]) -> None:
    """Call a function and end this process as an interpreter would."""
    code = 1
    try:
        code = begin() or 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class _Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    pass


def serve(name: str) -> None:
    """Answer until the folder of sockets has gone."""
    for module in IMPORTS[name]:
        importlib.import_module(module)
    assert name == "peftlit" or not [module for module in sys.modules if module.startswith(("peftlit", "lightning"))]
    if name == "peftlit":
        check_reloads_in_forks()
    folder = Path(os.environ[VARIABLE])
    with _Server(str(folder / name), _Job) as server:
        print("ready", flush=True)
        while folder.exists():
            if select.select([server], [], [], 1.0)[0]:
                server.handle_request()
            server.service_actions()


def check_reloads_in_forks() -> None:
    """Let the fresh processes of a reload check be forks of a server."""
    from peftlit.export import fresh_process

    fresh_process.subprocess = SimpleNamespace(run=run, TimeoutExpired=subprocess.TimeoutExpired)  # type: ignore[assignment]


if __name__ == "__main__":
    serve(sys.argv[1])
