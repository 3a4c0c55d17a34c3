"""The head of a language model, applied only to the rows that are asked for.

Logits are the largest tensor of a language model, and most are of no use: few tokens have a label. So the body runs
over the whole batch, and the head over the rows that have a label, a bounded number at a time.

Letters: ``B`` rows in the batch, ``T`` tokens, ``H`` hidden, ``V`` vocabulary, ``N`` rows asked for, ``K`` token ids.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from inspect import signature
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

log = logging.getLogger(__name__)

MAX_LOGITS = 2**25
"""Logits that exist at a time: 128 MiB in float32, of which a loss holds about three copies; still a thousand rows of
32,000 words, so that the matrix product stays efficient."""

WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")
"""What configs call the number of tokens that attention looks back, where it does not see all of them."""

PROBE_FAILURES = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What code that was written for something else may raise."""


class LanguageHead:
    """The head of a masked or causal language model, apart from its body.

    Hidden states come from the model's own forward, adapters and virtual tokens included; logits from its own head,
    with whatever follows its matrix. If a head does not work alone (custom code), the full logits take the place of
    hidden states, and what is computed from them is the same.

    Args:
        model: A model of ``AutoModelForMaskedLM`` or ``AutoModelForCausalLM``, or the peft model around it.
    """

    def __init__(self, model: PreTrainedModel | PeftModel) -> None:
        self.model = model
        self._inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        self._body: Any = self._inner.base_model
        self._parameters = signature(self._inner.forward).parameters
        self._output_class: Any = None  # of the body; None = the head does not work alone
        self._words_alone = False
        self.vocab_size = 0
        with self._evaluation():
            self._probe()

    def hidden_states(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the body's last hidden states (B, T, H), without virtual tokens, for inputs without labels."""
        arguments: dict[str, Any] = {**inputs, "use_cache": False} if "use_cache" in self._parameters else inputs
        length = inputs["input_ids"].shape[1]
        if self._output_class is None:
            logits: Tensor = self.model(**arguments).logits
            return logits[:, -length:]
        with self._caught_outputs() as outputs:
            self.model(**arguments)
        hidden: Tensor = outputs[0].last_hidden_state
        return hidden[:, -length:]

    def logits(self, rows: Tensor) -> Tensor:
        """Return the logits (N, V) of rows of hidden states (N, H)."""
        if self._output_class is None:
            return rows
        words = torch.zeros(1, len(rows), dtype=torch.int64, device=rows.device)  # some forwards look at their shape
        with self._body_returning(self._output_class(last_hidden_state=rows.unsqueeze(0))):
            logits: Tensor = self._inner(input_ids=words).logits
        return logits[0]

    def label_logits(self, rows: Tensor, ids: Tensor) -> Tensor:
        """Return the logits (B, K) of token ids (B, K); if the model allows it, no others are computed."""
        return self._matrix_rows(rows, ids) if self._words_alone else self.logits(rows).gather(1, ids)

    def loss(self, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the summed cross-entropy in float32, and how many labels are the likeliest token; both scalars.

        Without rows the loss is a zero that still requires grad, so that ``backward`` works and ranks stay in step.

        Args:
            rows: Hidden states of the tokens that have a label, (N, H).
            labels: Token ids, (N,).
        """
        likelihoods, likeliest = self._in_chunks(rows, labels.unsqueeze(1))
        return -likelihoods.sum(), (likeliest == labels).sum()

    def log_likelihoods(self, rows: Tensor, ids: Tensor) -> Tensor:
        """Return the log-probabilities (N, K) of token ids (N, K) among the vocabulary, in float32."""
        return self._in_chunks(rows, ids)[0]

    @cached_property
    def branching_limit(self) -> int:
        """Tokens of the longest row that may branch: whose tokens are told what they see and where they stand.

        0 if the model cannot be told: under virtual tokens, which peft puts before a plain mask, and where attention
        ignores ``position_ids`` or takes no mask of ours. Such a mask leaves attention windows out, so rows must not
        reach beyond them.
        """
        config = self._inner.config.get_text_config()
        windows = [getattr(config, name, None) for name in WINDOWS]
        sizes = [size for size in windows if isinstance(size, int)] if self._branches() else [0]
        limit = min([sys.maxsize, *sizes])
        if limit < sys.maxsize:
            log.info("%s: rows of more than %d tokens cannot branch; labels get rows of their own", self._name, limit)
        return limit

    @cached_property
    def keeps_apart(self) -> bool:
        """Whether sequences that share a row, told apart by positions that start anew, do not see one another."""
        device = self._body.device
        rows = torch.tensor([[0, 1, 2, 0], [2, 1, 2, 0]], device=device)  # one sequence behind two others
        inputs = {"input_ids": rows, "position_ids": torch.tensor([[0, 1, 0, 1]] * 2, device=device)}
        hidden = self._states_if_possible(inputs)
        return hidden is not None and _close(hidden[1, 2:], hidden[0, 2:])

    def branching_mask(self, seen: Tensor) -> Tensor:
        """Return the mask (B, 1, T, T) for the model; ``seen[b, i, j]`` = token i of row b sees token j."""
        if self._inner.config._attn_implementation == "sdpa":  # takes a mask to add in the dtype of its scores only
            return seen.unsqueeze(1)
        return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, torch.finfo().min).unsqueeze(1)

    def _in_chunks(self, rows: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-likelihoods (N, K) and likeliest tokens (N,); backward recomputes each of several chunks."""
        size = max(1, MAX_LOGITS // self.vocab_size)
        chunks = zip(rows.split(size), ids.split(size), strict=True)
        if len(rows) <= size or not torch.is_grad_enabled():
            parts = [self._likelihoods(*chunk) for chunk in chunks]
        else:
            parts = [checkpoint(self._likelihoods, *chunk, use_reentrant=False) for chunk in chunks]
        likelihoods, likeliest = zip(*parts, strict=True)
        return torch.cat(likelihoods), torch.cat(likeliest)

    def _likelihoods(self, rows: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.logits(rows)
        return logits.float().log_softmax(-1).gather(1, ids), logits.detach().argmax(-1)

    def _matrix_rows(self, rows: Tensor, ids: Tensor) -> Tensor:
        matrix: Any = self._inner.get_output_embeddings()
        scores = torch.einsum("bh,bkh->bk", rows, matrix.weight[ids])
        return scores if matrix.bias is None else scores + matrix.bias[ids]

    def _probe(self) -> None:
        """Find out on two tokens whether the head works alone, and whether its matrix is all there is to it."""
        words = torch.arange(2, device=self._body.device).unsqueeze(0)
        whole: Tensor = self._inner(input_ids=words).logits[0]
        self.vocab_size = whole.shape[-1]
        try:
            with self._caught_outputs() as outputs:
                self._inner(input_ids=words)
            self._output_class = type(outputs[0])
            rows = outputs[0].last_hidden_state[0]
            works = _alike(self.logits(rows), whole)
        except torch.OutOfMemoryError:
            raise
        except PROBE_FAILURES:
            works = False
        if not works:
            self._output_class = None
            log.info("%s: its head does not work apart from its body; all logits are computed", self._name)
            return
        matrix = self._inner.get_output_embeddings()
        if type(matrix) is nn.Linear and len(matrix.weight) == self.vocab_size:  # one with an adapter has another type
            ids = torch.arange(self.vocab_size, device=rows.device).expand(2, -1)
            large = rows * (1000 / whole.abs().max())  # a soft cap bends large logits only
            self._words_alone = all(_alike(self._matrix_rows(r, ids), self.logits(r)) for r in (rows, large))

    def _branches(self) -> bool:
        """Compare a token that follows another at once with one behind a third that it does not see."""
        if self._inner.config._attn_implementation not in ("sdpa", "eager") or "position_ids" not in self._parameters:
            return False
        seen = torch.ones(2, 3, 3, dtype=torch.bool, device=self._body.device).tril()
        seen[0, 2, 1] = False
        inputs = {
            "input_ids": torch.tensor([[0, 2, 1], [0, 1, 2]], device=seen.device),
            "attention_mask": self.branching_mask(seen),
            "position_ids": torch.tensor([[0, 1, 1], [0, 1, 2]], device=seen.device),
        }
        hidden = self._states_if_possible(inputs)
        return hidden is not None and _close(hidden[0, 2], hidden[1, 1])

    def _states_if_possible(self, inputs: dict[str, Tensor]) -> Tensor | None:
        """Return hidden states in evaluation mode, None if the model does not take such inputs."""
        try:
            with self._evaluation():
                return self.hidden_states(inputs).float()
        except torch.OutOfMemoryError:
            raise
        except PROBE_FAILURES:
            return None

    @property
    def _name(self) -> str:
        return str(type(self._inner).__name__)

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        """Switch dropout and gradients off for a while."""
        training = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module, mode in training.items():
                module.training = mode

    @contextmanager
    def _caught_outputs(self) -> Iterator[list[Any]]:
        """Catch what the body returns, and show the head a single row of it, at next to no cost."""
        caught = []

        def catch(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
            caught.append(output)
            return type(output)(last_hidden_state=output.last_hidden_state[:1, :1])

        hook = self._body.register_forward_hook(catch)
        try:
            yield caught
        finally:
            hook.remove()

    @contextmanager
    def _body_returning(self, output: Any) -> Iterator[None]:
        """Let the body return a given output, whatever its input."""
        own = self._body.__dict__.get("forward")  # where a library has put one of its own over the class's
        self._body.forward = lambda *_, **__: output
        try:
            yield
        finally:
            del self._body.__dict__["forward"]
            if own is not None:
                self._body.forward = own


def _close(some: Tensor, others: Tensor) -> bool:
    """Tell whether hidden states differ by no more than kernels do."""
    return bool((some - others).norm() < 1e-2 * others.norm())


def _alike(some: Tensor, others: Tensor) -> bool:
    """Tell whether two tensors are equal but for the rounding of their dtype."""
    return bool((some - others).abs().max() <= torch.finfo(others.dtype).eps ** 0.5 * others.abs().max())
