"""What the terminal shows: peftlit's log lines without known noise; set up before heavy imports, which warn, too."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from functools import partial

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
    # our own line about precision says it
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


LIBRARY_LEVELS = {
    "huggingface_hub": logging.ERROR,  # one error of ours tells of an unreachable hub, not each retry
    "lightning.pytorch": logging.WARNING,  # its INFO lines repeat what ours say
    "lightning.fabric": logging.WARNING,
    "lightning.pytorch.profilers": logging.INFO,  # these two log only when they are configured
    "lightning.pytorch.callbacks.early_stopping": logging.INFO,
}


def set_up(level: int = logging.INFO) -> None:
    """Log peftlit's lines to stderr, keep other libraries' warnings, drop the known noise."""
    if not distributed.is_rank_zero():
        level = logging.ERROR
        warnings.simplefilter("ignore")
    handler = _StandardError()
    handler.setFormatter(logging.Formatter("peftlit: %(message)s"))
    logger = logging.getLogger("peftlit")
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
    for name, text in _NOISY_RECORDS.items():
        logging.getLogger(name).addFilter(partial(_lacks, text))  # whether or not its library is imported yet
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


class _StandardError(logging.Handler):
    """Write to whatever ``sys.stderr`` is at the moment: under a progress bar, rich puts lines above the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(self.format(record) + "\n")
        sys.stderr.flush()


def quiet_libraries() -> None:
    """Set the levels of libraries' loggers, which set their own when they are imported."""
    for name, level in LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(level)


def _lacks(text: str, record: logging.LogRecord) -> bool:
    return text not in record.getMessage()
