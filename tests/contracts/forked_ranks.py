"""Run peftlit on two processes over and over, without paying for the imports each time.

Run as ``python -m tests.contracts.forked_ranks``: each line that it reads is a JSON list: a folder, what is to break
(see :mod:`tests.contracts.faults_on_a_rank`), and the arguments. It answers each with a line that says what came of it.
All is as ever, Lightning's own launcher included, but where that would start a fresh interpreter, it gets a fork.
"""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lightning.fabric.strategies.launchers import subprocess_script as fabric_launcher
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.strategies.launchers import subprocess_script as launcher

from peftlit.__main__ import main
from tests.contracts.faults_on_a_rank import VARIABLE, break_as_asked
from tests.contracts.forked import peftlit_in


def fork_ranks(begin: Callable[[], int]) -> None:
    """Let the processes that Lightning starts be forks of this one that begin anew, with the environment for them."""

    class Fork(subprocess.Popen):  # type: ignore[type-arg]
        def _execute_child(self, *arguments: Any) -> None:
            environment = next(argument for argument in arguments if isinstance(argument, dict))
            sys.stdout.flush()
            sys.stderr.flush()
            self.pid = os.fork()
            if self.pid == 0:
                _be(environment, begin)
            self._child_created = True

    for module in (fabric_launcher, launcher):
        module.subprocess = type("subprocess", (), {"Popen": Fork})


def _be(environment: dict[str, str], begin: Callable[[], int]) -> None:
    code = 70
    try:
        os.environ.clear()
        os.environ.update(environment)
        rank_zero_only.rank = int(environment["LOCAL_RANK"])
        code = begin()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def prepare(fault: dict[str, Any], arguments: list[str]) -> None:
    os.environ[VARIABLE] = json.dumps(fault)
    break_as_asked()
    fork_ranks(partial(main, arguments))


if __name__ == "__main__":
    sys.argv = ["peftlit"]
    for line in sys.stdin:
        folder, fault, *arguments = json.loads(line)
        outcome = peftlit_in(Path(folder), *arguments, prepare=partial(prepare, fault, arguments), others_may_take=20.0)
        print(json.dumps(vars(outcome)), flush=True)
