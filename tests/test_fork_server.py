"""What runs in a fork of a server ends, sees and says what it would in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests import fork_server
from tests.forked import forked


def python(code: str, *arguments: str, **options):
    return fork_server.run([sys.executable, "-c", code, *arguments], **options)


def test_it_has_its_own_arguments_folder_environment_and_streams(tmp_path) -> None:
    code = (
        "import os, sys; print(sys.argv[1:], os.getcwd(), os.environ['A']); print('err', file=sys.stderr); sys.exit(3)"
    )
    done = python(code, "one", "two", cwd=tmp_path, env={**os.environ, "A": "b"})
    assert (done.returncode, done.stdout, done.stderr) == (3, f"['one', 'two'] {tmp_path} b\n", "err\n")


def test_a_plain_one_has_seen_transformers_and_nothing_of_peftlit() -> None:
    code = "import sys; print([name for name in ('transformers', 'peft', 'lightning', 'pe' 'ftlit') if name in sys.modules])"
    assert python(code).stdout == "['transformers', 'peft']\n"


def test_its_errors_and_signals_are_those_of_a_process() -> None:
    done = python("raise KeyError('bert')")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "KeyError: 'bert'"
    assert python("import os; os.kill(os.getpid(), 9)").returncode == -signal.SIGKILL


def test_one_that_does_not_end_is_given_up(tmp_path) -> None:
    code = (
        f"import os, threading; open({str(tmp_path / 'id')!r}, 'w').write(str(os.getpid())); threading.Event().wait()"
    )
    python("pass")  # a server that has started
    with pytest.raises(subprocess.TimeoutExpired):
        python(code, timeout=1.0)
    process = int((tmp_path / "id").read_text())
    outcome = forked(lambda: _wait_for_the_end_of(process), tmp_path)
    assert outcome.code == 0


def _wait_for_the_end_of(process: int) -> None:
    while os.path.exists(f"/proc/{process}"):
        os.sched_yield()
