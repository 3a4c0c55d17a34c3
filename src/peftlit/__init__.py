"""peftlit: parameter-efficient fine-tuning with Lightning. Importing it loads nothing heavy."""

import importlib
from typing import TYPE_CHECKING, Any

from peftlit import deprecated

if TYPE_CHECKING:
    from peftlit.api import Run, fit
    from peftlit.export.load import load

__all__ = ["Run", "__version__", "fit", "load"]
__version__ = "0.1.0"

deprecated.install()


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name in ("Run", "fit"):
        from peftlit import api

        return getattr(api, name)
    if name == "load":
        from peftlit.export.load import load

        return load
    if f"peftlit.{name}" in deprecated.MOVED:
        return importlib.import_module(f"peftlit.{name}")
    raise AttributeError(f"module 'peftlit' has no attribute {name!r}")
