"""Import paths of earlier releases, which work until release 0.3."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

REMOVED_IN = (0, 3)

MOVED = {
    "peftlit.adapters.full": "peftlit.adapters.full_fine_tuning",
    "peftlit.architecture": "peftlit.backbone.architecture",
    "peftlit.data.chat_files": "peftlit.data.datasets.chat_files",
    "peftlit.data.imdb": "peftlit.data.datasets.imdb",
    "peftlit.data.reviews": "peftlit.data.datasets.reviews",
    "peftlit.data.sst2": "peftlit.data.datasets.sst2",
    "peftlit.data.streamed": "peftlit.data.datasets.streamed_text",
    "peftlit.data.text_files": "peftlit.data.datasets.text_files",
    "peftlit.data.text_lines": "peftlit.data.datasets.text_lines",
    "peftlit.data.tweet_sentiment": "peftlit.data.datasets.tweet_sentiment",
    "peftlit.data.wikitext": "peftlit.data.datasets.wikitext",
    "peftlit.facts": "peftlit.batch",
    "peftlit.heads": "peftlit.modules.heads",
    "peftlit.losses": "peftlit.modules.losses",
    "peftlit.metrics": "peftlit.modules.metrics",
    "peftlit.modules.window": "peftlit.modules.accumulation",
    "peftlit.optim": "peftlit.modules.optim",
    "peftlit.plugins.checkpoint_io": "peftlit.checkpoint.format",
    "peftlit.plugins.finite": "peftlit.plugins.nan_guard",
    "peftlit.plugins.resumption": "peftlit.checkpoint.resume",
    "peftlit.problems": "peftlit.modules.problems",
    "peftlit.quantization": "peftlit.backbone.quantization",
    "peftlit.run.export": "peftlit.export.write",
    "peftlit.run.load": "peftlit.export.load",
    "peftlit.weights": "peftlit.backbone.weights",
}
_RENAMED = {"DataFacts": "DataSpec"}


class _MovedModules(MetaPathFinder, Loader):
    """Import an old path as a module that looks every name up in the new one."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        old, new = module.__name__, MOVED[module.__name__]
        warnings.warn(
            f"{old} is {new} now; the old path ends with peftlit {'.'.join(map(str, REMOVED_IN))}",
            DeprecationWarning,
            stacklevel=2,
        )
        content = importlib.import_module(new)
        module.__dict__.update({name: value for name, value in vars(content).items() if not name.startswith("_")})
        module.__dict__["__getattr__"] = lambda name: getattr(content, _RENAMED.get(name) or name)


def install() -> None:
    """Make the old paths importable."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())
