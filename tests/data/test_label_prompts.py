from __future__ import annotations

import json
import logging

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from peftlit.batch import IGNORE_INDEX
from peftlit.data import IMDB, SST2, Reviews, TextFiles, TweetSentiment
from peftlit.data.collate import PadCollator, PromptCollator
from peftlit.data.label_prompts import LabelPrompts
from peftlit.data.prompt import Prompt
from peftlit.errors import ConfigError
from tests.data.helpers import refusal, text_files, write_jsonl
from tests.data.language_data import TEMPLATE, ids, other_tokenizer

NAMES = ["bad", "good"]
WORDS = [" bad", " good"]
ROWS = [{"text": "the film was dull", "label": "bad"}, {"text": "it works", "label": "good"}]


@pytest.fixture
def tokenizer(tokenizer) -> PreTrainedTokenizerBase:
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def causal(folder, rows=ROWS, **settings) -> TextFiles:
    return text_files(folder, rows, **{"objective": "causal", "max_length": 32, "batch_size": 2, **settings})


def test_rows_become_prompts_with_the_tokens_of_every_label(tokenizer):
    prompts = LabelPrompts(Prompt("{text} is", label_words=[" very bad", " good"]), tokenizer, NAMES, 8)
    rows = {"row": [4, 9], "text": ["it", "the film was long and slow"], "label": [1, 0]}
    assert prompts.encode_columns(rows, "a.jsonl") == {
        "row": [4, 9],
        "label": [1, 0],
        "input_ids": [ids(tokenizer, "it is"), ids(tokenizer, "the film was long and is")],
        "label_ids": [[ids(tokenizer, "very bad"), ids(tokenizer, "good")]] * 2,
        "length": [4, 8],
        "tokens": [4, 9],
    }


def test_the_cache_is_not_used_for_anything_else(tmp_path, decoder):
    def encoded(tokenizer=decoder, max_length=32, **prompt):
        prompt = Prompt(**{"template": "{text} is", "label_words": WORDS, **prompt})
        data = causal(tmp_path, tokenizer=tokenizer, max_length=max_length, prompt=prompt)
        data.setup("fit")
        return str(data._encoded["train"][:])

    changes = [
        *({"template": "{text} was"}, {"label_words": WORDS[::-1]}, {"max_length": 4}),
        *({"chat_template": TEMPLATE}, {"chat_template": "it " + TEMPLATE}),
        {"tokenizer": other_tokenizer(decoder, tmp_path / "other", chat_template="it it " + TEMPLATE)},
    ]
    assert encoded() == encoded()
    assert len({encoded(**change) for change in [{}, *changes]}) == 1 + len(changes)


@pytest.mark.parametrize(("side", "first"), [("left", [1, 1, 5]), ("right", [5, 1, 1])])
def test_a_batch_has_prompts_and_labels_of_uneven_lengths(tokenizer, side, first):
    tokenizer.padding_side = side
    tokenizer.model_input_names = ["input_ids"]  # asks for no mask, and gets one
    label_ids, none = [[[9], [10, 11]], [[9], [12]]], IGNORE_INDEX
    batch = PromptCollator(tokenizer)(
        {"input_ids": [[5], [6, 7, 8]], "label_ids": label_ids, "row": [2, 4], "label": [1, 0]}
    )
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [first, [6, 7, 8]],
        "attention_mask": [[int(token == 5) for token in first], [1, 1, 1]],
        "label_ids": [[[9, none], [10, 11]], [[9, none], [12, none]]],
        "labels": [1, 0],
        "row": [2, 4],
    }


def test_by_default_the_label_is_asked_for_in_plain_text_or_in_a_chat_where_there_is_a_template(tmp_path, decoder):
    data = causal(tmp_path, tokenizer=decoder)
    assert data.label_prompts.prompt.fill("it works") == "it works\nLabel:"
    record = {"template": "{text}\nLabel:", "system": None, "label_words": [" bad", " good"], "chat": False}
    assert json.loads(json.dumps(data.prompt_record)) == {**record, "chat_template": None}
    chat = causal(tmp_path, tokenizer=other_tokenizer(decoder, tmp_path / "chat", chat_template=TEMPLATE))
    assert chat.label_prompts.prompt.messages("it works") == [
        {"role": "system", "content": "Label of the text? Answer with one of: bad, good."},
        {"role": "user", "content": "it works"},
    ]
    assert chat.label_prompts.words == NAMES
    assert chat.prompt_record["chat"] is True
    rows = [{**row, "b": "a book"} for row in ROWS]
    for folder, asked in ((decoder, "it works\na book\nLabel:"), (str(tmp_path / "chat"), "it works\na book")):
        data = causal(tmp_path, rows, text_pair_column="b", tokenizer=folder)
        assert data.label_prompts.prompt.fill(("it works", "a book")) == asked


def test_sets_with_a_name_for_their_label_ask_by_it():
    assert [kind.question for kind in (IMDB, SST2, TweetSentiment, Reviews)] == ["Sentiment"] * 3 + ["Label"]


def test_labels_that_begin_alike_behind_one_row_of_many_are_found_before_training(tmp_path, shared):
    """Behind some texts a word becomes other tokens than behind others."""
    rows = [{"text": f"film {i}", "label": NAMES[i % 2]} for i in range(200)]
    odd = [*rows[:150], {"text": "it is ok ", "label": "bad"}, *rows[150:]]
    tokenizer = str(shared / "models" / "stories260K-llama")
    prompt = Prompt("{text}", chat=False, label_words=["ly", "le"])
    splits = ("train", "validation", "test")
    for split in (None, *splits, splits[-1]):  # the last time from the cache
        files = {
            f"{name}_file": write_jsonl(tmp_path / f"{name}.jsonl", odd if name == split else rows) for name in splits
        }
        data = TextFiles(**files, objective="causal", tokenizer=tokenizer, prompt=prompt)
        assert data.first_tokens_differ is (split is None)


def test_without_a_language_model_rows_are_encoded_as_ever(tmp_path, decoder):
    data = causal(tmp_path, objective=None, tokenizer=decoder)
    data.setup("fit")
    assert (data.prompt_record, data.first_tokens_differ) == (None, None)
    assert type(data._collator("train")) is PadCollator
    assert "label_ids" not in next(iter(data.train_dataloader()))


def test_what_is_cut_is_counted(tmp_path, decoder, caplog):
    rows = [*ROWS, {"text": "it " * 40, "label": "good"}]
    data = causal(tmp_path, rows, tokenizer=decoder, max_length=12)
    with caplog.at_level(logging.INFO, "peftlit"):
        data.setup("fit")
    assert data.lengths["train"]["cut"] == 1
    assert "1 rows (33.3 %) cut to 12" in caplog.text
    assert max(data._encoded["train"]["length"][:]) == 12


def test_settings_that_do_not_fit_are_refused(tmp_path, decoder):
    few = causal(tmp_path, tokenizer=decoder, prompt=Prompt("{text}", label_words=[" good"]))
    for action, said in (
        (
            lambda: causal(tmp_path, objective="masked"),
            "data: TextFiles has labels, and MaskedLM learns running text; use TextLines, or SequenceClassification",
        ),
        (
            lambda: causal(tmp_path, objective=None, prompt=Prompt("{text}")),
            "data.prompt: only a causal language model is asked by a prompt; leave it out",
        ),
        (few.prepare_data, "data.prompt.label_words: got 1 words, needs 2, one for each of bad, good"),
    ):
        assert refusal(action, ConfigError) == said
