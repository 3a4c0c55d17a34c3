"""The entry point of the command line: help and version without heavy imports, then one command."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from peftlit import __version__, distributed
from peftlit.cli import console
from peftlit.errors import PeftlitError, ReloadError, Stopped

HELP = """\
usage: peftlit COMMAND [--config FILE.yaml ...] [--KEY VALUE ...]

Fine-tune language models with adapters, on a quantized backbone if need be.

commands:
  fit        train, keep the best weights, export them to RUN/adapter, score the test split
  validate   score the validation split with RUN/adapter      (--run_dir RUN)
  test       score the test split with RUN/adapter            (--run_dir RUN)
  predict    answer texts, as JSON lines    (--run_dir RUN --text "..." | --file FILE)

first steps:
  peftlit fit --config configs/quickstart.yaml     the whole way, on a laptop, in minutes
  peftlit fit --config my.yaml --print_config      every setting with its value
  peftlit fit --help                               every setting with its meaning
  peftlit fit --model.help SequenceClassification  one class's settings
  peftlit --print_completion shtab-bash            completion for your shell (needs pip install shtab)

options:
  -h, --help   this text
  --version    the version
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code.

    That is 0, 1 for an error in a run, 2 for a wrong setting, 128 + N when signal N ended it (130 for Ctrl-C).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")  # noqa: T201
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"peftlit {__version__}")  # noqa: T201
        return 0
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a user's own modules, for the console script as for python -m
    console.set_up()
    distributed.ignore_interrupts_in_children()
    try:
        command = "predict" if arguments[0] == "predict" else "commands"
        import_module(f"peftlit.cli.{command}").run(arguments)
    except Stopped as stop:
        if distributed.is_rank_zero():
            print(f"peftlit: {stop}", file=sys.stderr)  # noqa: T201
        return stop.exit_code
    except PeftlitError as error:
        if not isinstance(error, ReloadError) or distributed.is_rank_zero():  # which all ranks raise
            print(f"peftlit: error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        print("peftlit: interrupted", file=sys.stderr)  # noqa: T201
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
