"""What ``adapter`` may be in a configuration, and the method that stands for it: the only place that asks which."""

from __future__ import annotations

from pathlib import Path

from peft import AdaLoraConfig, PeftConfig

from peftlit.adapters.adalora import AdaLora
from peftlit.adapters.full_fine_tuning import MODEL_FILE, FullFineTuning
from peftlit.adapters.head_only import HeadOnly
from peftlit.adapters.method import AdapterMethod
from peftlit.adapters.peft_method import ADAPTER_CONFIG_FILE, PeftMethod, read_config

Adapter = PeftConfig | FullFineTuning | None


def method_of(adapter: Adapter) -> AdapterMethod:
    """Return the method of a configured adapter; None is a head alone."""
    if adapter is None:
        return HeadOnly()
    if isinstance(adapter, AdapterMethod):
        return adapter
    return AdaLora(adapter) if isinstance(adapter, AdaLoraConfig) else PeftMethod(adapter)


def read_adapter(folder: Path) -> Adapter:
    """Return the adapter that an exported folder was trained with.

    Args:
        folder: The folder.

    Raises:
        RunFolderError: Its config asks peft to load weights from elsewhere.
    """
    if (folder / ADAPTER_CONFIG_FILE).is_file():
        return read_config(folder)
    return FullFineTuning() if (folder / MODEL_FILE).is_file() else None
