"""LightningModules: a backbone, an adapter, a head and an optimizer, one module per task."""

from peftlit.modules.base import PeftModule
from peftlit.modules.causal_lm import CausalLM
from peftlit.modules.masked_lm import MaskedLM
from peftlit.modules.sequence_classification import SequenceClassification

__all__ = ["CausalLM", "MaskedLM", "PeftModule", "SequenceClassification"]
