"""peftlit from Python: the settings, checks and files of the command line."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from peftlit.cli import commands
from peftlit.cli.process_state import preserve_process_state
from peftlit.errors import ConfigError, PeftlitError
from peftlit.export.load import load
from peftlit.export.predictor import Predictor
from peftlit.run.folder import RunFolder


class Run:
    """A finished run, by its folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def metrics(self) -> dict[str, Any]:
        """Content of ``metrics.json``: scores by split, hashes, speed, memory."""
        return RunFolder(self.path).read_metrics()

    def load(self, *, device: str | None = None, trust_remote_code: bool = False) -> Predictor:
        """Load the trained model; see :func:`peftlit.load`."""
        return load(self.path, device=device, trust_remote_code=trust_remote_code)


def fit(*configs: str | Path | Mapping[str, Any], run_dir: str | Path | None = None) -> Run:
    """Train, export, score and check the reload, as ``peftlit fit`` does, and restore the process's settings.

    Args:
        *configs: YAML files, or their content; later ones overlay earlier ones key by key.
        run_dir: Folder of the run; None = the next number under ``runs/``.

    Raises:
        PeftlitError: Anything that other settings can fix.
    """
    if not configs:
        raise ConfigError("fit: needs a configuration: a YAML file, or its content as a dict")
    arguments = ["fit"]
    with tempfile.TemporaryDirectory() as scratch:
        for i, config in enumerate(configs, 1):
            path = config
            if isinstance(config, Mapping):
                path = Path(scratch, f"config_{i}.yaml")
                path.write_text(yaml.safe_dump(_plain(config), sort_keys=False), encoding="utf-8")
            arguments += ["--config", str(path)]
        if run_dir is not None:
            arguments += ["--run_dir", str(run_dir)]
        try:
            with preserve_process_state():
                return Run(commands.run(arguments).folder.path)
        except PeftlitError as error:  # the files are ours, so their folder means nothing to the caller
            error.args = (str(error).replace(f"{scratch}{os.sep}", ""),)
            raise


def _plain(value: Any) -> Any:
    """Return mappings, sequences, paths and NumPy's numbers as types that YAML can hold."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        return value.item()
    return str(value) if isinstance(value, Path) else value
