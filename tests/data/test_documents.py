from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import datasets
import pytest
import torch

from peftlit.batch import IGNORE_INDEX
from peftlit.data import DocumentDataModule
from peftlit.data.masking import EpochRows, Masking
from peftlit.errors import ConfigError
from tests import tiny
from tests.data.helpers import refusal
from tests.data.language_data import documents, masks_of, text_lines, write_pieces


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("decoder")
    tiny.write_tokenizer(folder, decoder=True)
    return str(folder)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("encoder")
    write_pieces(folder)
    return str(folder)


def told(**settings) -> DocumentDataModule:
    return DocumentDataModule(**{"objective": "causal", **settings})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"objective": "masked", "packing": True},
            "data.packing: a masked language model sees the whole row; leave packing out",
        ),
        ({"masking": Masking()}, "data.masking: a causal language model finds every token; leave masking out"),
        ({"objective": "masked"}, "data.tokenizer: {decoder!r} has no mask token; use CausalLM, or another backbone"),
    ],
)
def test_what_does_not_go_with_the_objective_is_refused(decoder, settings, said):
    data = told(tokenizer=decoder, **settings)
    with pytest.raises(ConfigError) as caught:
        data.get_tokenizer()
    assert str(caught.value) == said.format(decoder=decoder)


def test_whole_words_need_a_tokenizer_that_tells_them_apart(tmp_path):
    from transformers import ByT5Tokenizer

    ByT5Tokenizer(mask_token="<extra_id_0>").save_pretrained(tmp_path)
    data = told(objective="masked", tokenizer=str(tmp_path), masking=Masking(whole_words=True))
    with pytest.raises(ConfigError) as caught:
        data.get_tokenizer()
    assert str(caught.value) == ("data.masking.whole_words: ByT5Tokenizer does not tell words apart; set it to false")
    told(objective="masked", tokenizer=str(tmp_path), masking=Masking()).get_tokenizer()


@pytest.mark.parametrize("max_length", [1, 7])
def test_a_window_too_short_for_blocks_is_refused_at_once(max_length):
    with pytest.raises(ConfigError) as caught:
        told(max_length=max_length)
    assert str(caught.value) == f"data.max_length: got {max_length}, needs 8 or more for blocks"


def test_documents_are_cleaned_numbered_and_checked(tmp_path):
    lines = ["the  film <br />", "a &amp; b", "<br />", "a & b", "it is"]
    data = text_lines(tmp_path, lines, cleaning_steps=["html", "tags", "whitespace"])
    rows = data.read()["train"]
    assert rows["text"][:] == ["the film", "a & b", "", "a & b", "it is"]
    assert rows["row"][:] == [1, 2, 3, 4, 5]
    report = data.manifest()["splits"]["train"]
    assert (report["empty_text_rows"], report["duplicate_rows"]) == ([3], [4])
    assert data.manifest()["cleaning"] == {"html": 1, "tags": 2, "whitespace": 2}
    message = refusal(text_lines(tmp_path, lines, cleaning_steps=["tags"], strict=True).read)
    assert message == f"{tmp_path / 'train.txt'}, row 3: empty text (1 in train; strict)"


def test_documents_without_a_token_are_refused(tmp_path, decoder):
    data = text_lines(tmp_path, ["<br />", "<p>"], cleaning_steps=["tags", "whitespace"], tokenizer=decoder)
    assert refusal(data.prepare_data) == f"{tmp_path / 'train.txt'}: its documents hold no tokens"


def test_splits_are_cut_by_document_and_the_manifest_names_each(tmp_path, decoder):
    data = text_lines(tmp_path, documents(50), validation_share=0.2, test_share=0.1, tokenizer=decoder)
    data.setup("fit")
    manifest = data.manifest()
    assert json.loads(json.dumps(manifest)) == manifest
    assert {split: entry["rows"] for split, entry in manifest["splits"].items()} == {
        "train": 35,
        "validation": 10,
        "test": 5,
    }
    numbers = [set(rows["row"]) for rows in data.read().values()]
    assert len(set.union(*numbers)) == sum(map(len, numbers)) == 50
    assert (manifest["problem_type"], manifest["label_names"]) == ("language_modeling", [])
    of_blocks = {split: set(rows["row"]) for split, rows in data._encoded.items()}
    assert of_blocks == {"train": numbers[0], "validation": numbers[1]}


@pytest.mark.parametrize(("long", "what"), [("split", "split into blocks of"), ("cut", "cut to")])
def test_lengths_are_those_of_documents_and_not_of_blocks(tmp_path, decoder, caplog, long, what):
    lines = ["film " * 4, "the " * 40, "a " * 9]
    data = text_lines(tmp_path, lines, long=long, tokenizer=decoder)
    with caplog.at_level(logging.INFO, "peftlit"):
        data.setup("fit")
    assert data.lengths["train"]["rows"] == 3
    assert data.lengths["train"]["longest"] == 41
    assert data.lengths["train"]["cut"] == 1
    assert "train: 3 documents, tokens a document: mean 19, median 10, 95 % 41, longest 41; " in caplog.text
    assert f"1 documents (33.3 %) {what} 16" in caplog.text
    assert len(data._encoded["train"]) == (5 if long == "split" else 3)


def test_packed_rows_are_fewer_and_hold_the_same_labels(tmp_path, decoder, caplog):
    lines = documents(40)
    plain = text_lines(tmp_path, lines, tokenizer=decoder)
    with caplog.at_level(logging.INFO, "peftlit"):
        packed = text_lines(tmp_path, lines, tokenizer=decoder, packing=True)
        packed.setup("fit")
    plain.setup("fit")
    blocks, rows = len(plain._encoded["train"]), len(packed._encoded["train"])
    assert f"train: {blocks} blocks packed into {rows} rows" in caplog.text
    assert rows < 0.9 * blocks

    def labels(data):
        found = [batch["labels"] for batch in data.train_dataloader()]
        return sorted(label for batch in found for label in batch[batch != IGNORE_INDEX].tolist())

    assert labels(packed) == labels(plain)
    for batch in packed.train_dataloader():
        assert set(batch) == {"input_ids", "labels", "position_ids", "row"}


def test_training_rows_alone_know_their_epoch(tmp_path, encoder, decoder):
    lines = documents(40)
    masked = text_lines(tmp_path, lines, objective="masked", validation_share=0.2, tokenizer=encoder)
    masked.setup("fit")
    assert isinstance(masked._dataset("train"), EpochRows)
    assert isinstance(masked._dataset("validation"), datasets.Dataset)
    causal = text_lines(tmp_path, lines, tokenizer=decoder)
    causal.setup("fit")
    assert isinstance(causal._dataset("train"), datasets.Dataset)


def test_evaluation_masks_are_always_the_same(tmp_path, encoder):
    def masks(split="val", **settings):
        data = text_lines(
            tmp_path, documents(40), objective="masked", tokenizer=encoder,
            **{"validation_share": 0.3, "test_share": 0.3, **settings},
        )  # fmt: skip
        data.setup("fit")
        data.setup("test")
        return masks_of(data.val_dataloader() if split == "val" else data.test_dataloader())

    plain = masks()
    for settings in ({"seed": 1}, {"seed": 2}, {"batch_size": 1}, {"eval_batch_size": 3}, {"group_by_length": False}):
        assert masks(**settings) == plain
    assert masks(mask_seed=43) != plain
    assert masks("test", seed=1) == masks("test", seed=2, batch_size=3)


def test_the_training_seed_draws_training_masks_and_the_mask_seed_does_not(tmp_path, encoder):
    def masks(**settings):
        data = text_lines(tmp_path, documents(20), objective="masked", tokenizer=encoder, **settings)
        data.setup("fit")
        return masks_of(data.train_dataloader())

    assert masks(seed=1, mask_seed=5) == masks(seed=1, mask_seed=6)
    assert masks(seed=1) != masks(seed=2)


def test_masking_is_taken_as_told(tmp_path, encoder):
    masking = Masking(0.5, mask_share=1.0, random_share=0.0)
    data = text_lines(tmp_path, ["the film " * 5], objective="masked", tokenizer=encoder, masking=masking)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert int((batch["labels"] != IGNORE_INDEX).sum()) == 5
    assert int((batch["input_ids"] == data.get_tokenizer().mask_token_id).sum()) == 5


@pytest.mark.parametrize(("objective", "record"), [("causal", {"chat": False}), ("masked", None)])
def test_the_record_says_how_texts_are_put_to_a_causal_model(objective, record):
    assert told(objective=objective).prompt_record == record


def test_probes_are_the_beginnings_of_held_out_documents(tmp_path):
    (tmp_path / "test.txt").write_text("x" * 500 + "\nshort\n", encoding="utf-8")
    data = text_lines(tmp_path, documents(10), test_file=str(tmp_path / "test.txt"))
    assert data.probe() == ["x" * 200, "short"]
    assert len(text_lines(tmp_path, documents(30)).probe()) == 8


def test_a_set_of_ones_own_is_a_class_with_one_method(tmp_path, decoder):
    class Mine(DocumentDataModule):
        def load(self):
            return {"train": datasets.Dataset.from_dict({"body": documents(40)})}

    data = Mine(text_column="body", tokenizer=decoder, objective="causal", max_length=16)
    data.setup("fit")
    assert {split: len(rows) for split, rows in data.read().items()} == {"train": 32, "validation": 4, "test": 4}
    assert refusal(Mine().read) == "Mine train: no column 'text'; its columns are body"


def test_max_train_samples_counts_documents(tmp_path, decoder):
    data = text_lines(tmp_path, documents(40), max_train_samples=5, tokenizer=decoder)
    data.setup("fit")
    assert set(data._encoded["train"]["row"]) == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("side", ["left", "right"])
def test_batches_of_a_causal_model_have_the_next_tokens_as_labels(tmp_path, decoder, side):
    data = text_lines(tmp_path, documents(10), tokenizer=decoder, padding_side=side)
    data.setup("fit")
    for batch in data.train_dataloader():
        assert set(batch) == {"input_ids", "attention_mask", "labels", "row"}
        kept = batch["attention_mask"].bool()
        asked = batch["labels"] != IGNORE_INDEX
        assert torch.equal(batch["labels"][asked], batch["input_ids"][asked])
        first = kept & (kept.cumsum(1) == 1)
        assert torch.equal(asked, kept & ~first)


def test_a_file_of_lines_is_read_without_a_tokenizer(tmp_path):
    data = text_lines(tmp_path, documents(5))
    assert data.tokenizer is None
    assert len(data.read()["train"]) == 5


@pytest.mark.parametrize("packing", [False, True])
def test_the_documents_of_a_limited_evaluation_are_counted(tmp_path, decoder, packing):
    data = text_lines(tmp_path, documents(60), tokenizer=decoder, validation_share=0.5, packing=packing, batch_size=2)
    place = {"global_rank": 0, "world_size": 1, "strategy": SimpleNamespace(root_device=torch.device("cpu"))}
    data.trainer = SimpleNamespace(**place, limit_val_batches=3)
    data.setup("validate")
    rows = data._encoded["validation"]
    taken = [number for batch in [*data.val_dataloader().sampler][:3] for number in batch]
    assert len(taken) == 12
    held = rows[taken]["rows"] if packing else [[row] for row in rows[taken]["row"]]
    assert data.rows_scored("validation") == len({row for part in held for row in part}) < 30
    data.trainer.limit_val_batches = 1.0
    data.val_dataloader()
    assert data.rows_scored("validation") == 30
