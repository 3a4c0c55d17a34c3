"""The tokenizer that goes with the backbone, made ready for batches."""

from __future__ import annotations

import logging
from typing import Literal

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from peftlit.backbone import model_source
from peftlit.errors import DataError

log = logging.getLogger(__name__)


def load_tokenizer(
    name_or_path: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    padding_side: Literal["left", "right"] | None = None,
    max_length: int | None = None,
) -> PreTrainedTokenizerBase:
    """Load a tokenizer; give it a padding token where it has none.

    Args:
        name_or_path: Hub id, folder, or ``package:NAME``.
        revision: Branch, tag or commit of a hub id.
        trust_remote_code: Run Python code that comes with the tokenizer.
        padding_side: Side to pad on; None = the tokenizer's own.
        max_length: Where the saved tokenizer cuts, too; None = as it was saved.

    Raises:
        DataError: There is no tokenizer, or nothing to pad with.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model_source.resolve(name_or_path),
            revision=revision,
            trust_remote_code=trust_remote_code,
            **({} if padding_side is None else {"padding_side": padding_side}),  # set later, it would not be saved
        )
    except (OSError, ValueError) as error:
        raise DataError(
            f"data.tokenizer: cannot load a tokenizer from {name_or_path!r}; give a folder that has tokenizer.json"
        ) from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise DataError(
                f"data.tokenizer: {name_or_path!r} has neither a padding nor an end token; set pad_token in it"
            )
        tokenizer.pad_token = tokenizer.eos_token
        log.info("tokenizer has no padding token; pads with its end token %r", tokenizer.eos_token)
    if max_length is not None:
        tokenizer.model_max_length = max_length
    return tokenizer
