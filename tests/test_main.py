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


def test_version_is_printed(peftlit) -> None:
    assert peftlit("--version") == (0, f"peftlit {__version__}\n", "")


def test_no_command_prints_the_help_and_fails(peftlit) -> None:
    code, out, _ = peftlit()
    assert code == 2
    assert "fit" in out
    assert "quickstart.yaml" in out


def test_console_script_finds_modules_in_the_launch_folder(peftlit, tmp_path, settings, write_config) -> None:
    (tmp_path / "my_data_of_mine.py").write_text(
        "from peftlit.data import SST2\n\n\nclass Mine(SST2):\n    pass\n", encoding="utf-8"
    )
    sys.path[:] = [p for p in sys.path if p != str(tmp_path)]
    settings["data"]["class_path"] = "my_data_of_mine.Mine"
    code, out, err = peftlit("fit", "--config", write_config(settings), "--print_config")
    assert code == 0, err
    assert "my_data_of_mine.Mine" in out
