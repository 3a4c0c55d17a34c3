"""The base model: where its files are, its config, how it is quantized, how its weights load."""

from peftlit.backbone.backbone import Backbone

__all__ = ["Backbone"]
