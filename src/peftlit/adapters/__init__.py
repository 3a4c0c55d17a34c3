"""What is attached to the backbone: any ``peft.PeftConfig``, nothing (head only), or all weights."""

from peftlit.adapters.attach import Adapter, attach
from peftlit.adapters.full_fine_tuning import FullFineTuning

__all__ = ["Adapter", "FullFineTuning", "attach"]
