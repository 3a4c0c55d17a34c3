"""The front door answers without heavy imports."""

import subprocess
import sys

from peftlit import __version__

HEAVY = ("torch", "lightning", "transformers", "peft", "datasets", "jsonargparse", "bitsandbytes")


def test_the_package_version_and_help_import_nothing_heavy() -> None:
    code = (
        "import peftlit, sys; from peftlit.__main__ import main; main(['--version']); main(['--help']);"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")


def test_the_version_is_printed_and_the_help_where_there_is_no_command(peftlit) -> None:
    assert peftlit("--version") == (0, f"peftlit {__version__}\n", "")
    code, out, _ = peftlit()
    assert (code, "fit" in out, "quickstart.yaml" in out) == (2, True, True)


def test_console_script_finds_modules_in_the_launch_folder(peftlit, tmp_path, settings, write_config) -> None:
    (tmp_path / "my_data_of_mine.py").write_text(
        "from peftlit.data import SST2\n\n\nclass Mine(SST2):\n    pass\n", encoding="utf-8"
    )
    sys.path[:] = [p for p in sys.path if p != str(tmp_path)]
    settings["data"]["class_path"] = "my_data_of_mine.Mine"
    out, _ = peftlit.ok("fit", "--config", write_config(settings), "--print_config")
    assert "my_data_of_mine.Mine" in out
