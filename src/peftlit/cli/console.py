"""What a person reads on the terminal: our own log lines, and no noise that is not meant for them.

Set up before the heavy imports, some of which already talk.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings

from peftlit import distributed

_NOISE = {
    # advice that does not hold: rows are tokenized and memory-mapped, so extra workers seldom help
    r".*does not have many workers.*",
    # Lightning calls what torch has deprecated
    r".*isinstance\(treespec, LeafSpec\).*",
    # peft calls what transformers has renamed
    r".*`is_gradient_checkpointing` is deprecated.*",
    r".*`gradient_checkpointing_enable` is deprecated.*",
    # jsonargparse fills LoraConfig's empty loftq_config with its defaults
    r".*`loftq_config` specified but will be ignored.*",
    # said by our own line about precision
    r".*is not supported by the model summary.*",
    # our run folder is ours to fill, and an earlier log is kept
    r".*Experiment logs directory .* exists and is not empty.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    # ranks need all values, as the docs of the metric say
    r".*will save all targets and predictions in the buffer.*",
    # what we log of an evaluation is already computed over all ranks
    r".*It is recommended to use `self\.log\('(val|test)/.*",
    # short runs log at their end anyway
    r".*smaller than the logging interval.*",
}
_NOISY_RECORDS = {
    # an optional speed-up package is absent
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    # how 8-bit layers work
    "bitsandbytes.autograd._functions": "inputs will be cast from",
}


LIGHTNING_LEVELS = {
    "lightning.pytorch": logging.WARNING,  # its INFO lines repeat what ours say
    "lightning.fabric": logging.WARNING,
    "lightning.pytorch.profilers": logging.INFO,  # these two speak only when they are asked to
    "lightning.pytorch.callbacks.early_stopping": logging.INFO,
}


def set_up(level: int = logging.INFO) -> None:
    """Log peftlit's lines plainly to stderr, keep other libraries' warnings, drop the known noise.

    Args:
        level: Lowest level of our own lines.
    """
    if not distributed.is_rank_zero():  # the first process of a run says what all of them do
        level = logging.ERROR
        warnings.simplefilter("ignore")
    handler = _StandardError()
    handler.setFormatter(logging.Formatter("peftlit: %(message)s"))
    logger = logging.getLogger("peftlit")
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False
    # an unreachable hub is told once by our own error, not by every retry
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
    for name, text in _NOISY_RECORDS.items():
        _drop(name, text)
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


class _StandardError(logging.Handler):
    """Write to whatever ``sys.stderr`` is at the moment: under a progress bar, rich puts lines above the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(self.format(record) + "\n")
        sys.stderr.flush()


def quiet_lightning() -> None:
    """Set the levels of Lightning's loggers; it sets its own when it is imported."""
    for name, level in LIGHTNING_LEVELS.items():
        logging.getLogger(name).setLevel(level)


def _drop(logger_name: str, text: str) -> None:
    """Filter one message out of a logger, whether or not its library is imported yet."""
    logging.getLogger(logger_name).addFilter(lambda record: text not in record.getMessage())
