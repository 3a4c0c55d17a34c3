"""peftlit: parameter-efficient fine-tuning with Lightning. Importing it loads nothing heavy."""

__version__ = "0.1.0"
