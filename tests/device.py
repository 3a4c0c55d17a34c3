"""Where tests train and answer: on the CPU, but for those of ``tests/gpu``."""

current = "cpu"
"""A name that is one of torch's devices and one of the Trainer's accelerators."""
