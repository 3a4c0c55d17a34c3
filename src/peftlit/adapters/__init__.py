"""What is attached to the backbone: any ``peft.PeftConfig``, nothing (head only), or all weights."""

from peftlit.adapters.adapter import Adapter, method_of
from peftlit.adapters.attach import attach
from peftlit.adapters.full_fine_tuning import FullFineTuning
from peftlit.adapters.method import AdapterContext, AdapterMethod

__all__ = ["Adapter", "AdapterContext", "AdapterMethod", "FullFineTuning", "attach", "method_of"]
