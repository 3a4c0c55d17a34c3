"""LightningModules: a backbone, an adapter, a head and an optimizer, one module per task."""

from peftlit.modules.base import PeftModule
from peftlit.modules.sequence_classification import SequenceClassification

__all__ = ["PeftModule", "SequenceClassification"]
