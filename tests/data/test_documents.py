from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import datasets
import pytest
import torch
from transformers import ByT5Tokenizer

from peftlit.batch import IGNORE_INDEX
from peftlit.data import DocumentDataModule
from peftlit.data.masking import Masking
from peftlit.errors import ConfigError
from tests.data.helpers import refusal
from tests.data.language_data import documents, learned, masks_of, text_lines


def told(**settings) -> DocumentDataModule:
    return DocumentDataModule(**{"objective": "causal", **settings})


def test_what_does_not_go_with_the_objective_or_the_tokenizer_is_refused(tmp_path, decoder):
    ByT5Tokenizer(mask_token="<extra_id_0>").save_pretrained(tmp_path)
    masked, bytes_, words = {"objective": "masked"}, {"tokenizer": str(tmp_path)}, Masking(whole_words=True)
    for settings, said in (
        ({**masked, "packing": True}, "packing: a masked language model sees the whole row; leave packing out"),
        ({"masking": Masking()}, "masking: a causal language model finds every token; leave masking out"),
        (masked, f"tokenizer: {decoder!r} has no mask token; use CausalLM, or another backbone"),
        (
            {**masked, **bytes_, "masking": words},
            "masking.whole_words: ByT5Tokenizer does not tell words apart; set it to false",
        ),
    ):
        data = told(**{"tokenizer": decoder, **settings})
        assert refusal(data.get_tokenizer, ConfigError) == f"data.{said}"
    told(**masked, **bytes_, masking=Masking()).get_tokenizer()
    for max_length in (1, 7):
        message = refusal(lambda window=max_length: told(max_length=window), ConfigError)
        assert message == f"data.max_length: got {max_length}, needs 8 or more for blocks"


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


def test_splits_are_cut_and_limited_by_document_and_the_manifest_names_each(tmp_path, decoder):
    shares = {"validation_share": 0.2, "test_share": 0.1}
    data = text_lines(tmp_path, documents(50), tokenizer=decoder, max_train_samples=30, **shares)
    data.setup("fit")
    manifest = data.manifest()
    assert json.loads(json.dumps(manifest)) == manifest
    sizes = {split: entry["rows"] for split, entry in manifest["splits"].items()}
    assert sizes == {"train": 30, "validation": 10, "test": 5}
    assert (manifest["problem_type"], manifest["label_names"]) == ("language_modeling", [])
    numbers = {split: set(rows["row"]) for split, rows in data.read().items()}
    assert len(set.union(*numbers.values())) == 45, "no document is in two splits"
    of_blocks = {split: set(rows["row"]) for split, rows in data._encoded.items()}
    assert of_blocks == {split: numbers[split] for split in ("train", "validation")}


@pytest.mark.parametrize(("long", "what", "rows"), [("split", "split into blocks of", 5), ("cut", "cut to", 3)])
def test_lengths_are_those_of_documents_and_not_of_blocks(tmp_path, decoder, caplog, long, what, rows):
    data = text_lines(tmp_path, ["film " * 4, "the " * 40, "a " * 9], long=long, tokenizer=decoder)
    with caplog.at_level(logging.INFO, "peftlit"):
        data.setup("fit")
    assert [data.lengths["train"][name] for name in ("rows", "longest", "cut")] == [3, 41, 1]
    assert "train: 3 documents, tokens a document: mean 19, median 10, 95 % 41, longest 41; " in caplog.text
    assert f"1 documents (33.3 %) {what} 16" in caplog.text
    assert len(data._encoded["train"]) == rows


def test_the_cache_is_not_used_for_anything_else(tmp_path, decoder, pieces):
    for settings, lengths in (
        ({"max_length": 8}, [8, 6]),
        ({"max_length": 9}, [9, 5]),
        ({"max_length": 8, "long": "cut"}, [8]),
        ({"max_length": 8, "tokenizer": pieces}, [8, 7]),
        ({"max_length": 8, "tokenizer": pieces, "objective": "masked"}, [8, 8]),
        ({"max_length": 9, "tokenizer": pieces, "objective": "masked", "long": "cut"}, [9]),
    ):
        text = "the film was very long and slow but the ending was superb"
        data = text_lines(tmp_path, [text], **{"tokenizer": decoder, **settings})
        data.setup("fit")
        assert data._encoded["train"]["length"][:] == lengths, settings


def test_packed_rows_are_fewer_and_hold_the_same_labels(tmp_path, decoder, caplog):
    plain, packed = (
        text_lines(tmp_path, documents(40), tokenizer=decoder, packing=packing) for packing in (False, True)
    )
    with caplog.at_level(logging.INFO, "peftlit"):
        packed.setup("fit")
    plain.setup("fit")
    blocks, rows = len(plain._encoded["train"]), len(packed._encoded["train"])
    assert f"train: {blocks} blocks packed into {rows} rows" in caplog.text
    assert rows < 0.9 * blocks
    labels = [sorted(learned(data._encoded["train"]["labels"])) for data in (packed, plain)]
    assert labels[0] == labels[1]
    for batch in packed.train_dataloader():
        assert set(batch) == {"input_ids", "labels", "position_ids", "row"}


def test_the_training_seed_draws_training_masks_and_the_mask_seed_those_of_evaluation(tmp_path, pieces):
    def masks(**settings):
        settings = {"tokenizer": pieces, "validation_share": 0.3, **settings}
        data = text_lines(tmp_path, documents(40), objective="masked", **settings)
        data.setup("fit")
        return masks_of(data.train_dataloader()), masks_of(data.val_dataloader())

    train, validation = masks(seed=1)
    others = masks(seed=1, mask_seed=43)
    assert others[0] == train
    assert others[1] != validation
    others = masks(seed=2)
    assert others[0] != train
    assert others[1] == validation


def test_masking_is_taken_as_told(tmp_path, pieces):
    masking = Masking(0.5, mask_share=1.0, random_share=0.0)
    data = text_lines(tmp_path, ["the film " * 5], objective="masked", tokenizer=pieces, masking=masking)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert int((batch["labels"] != IGNORE_INDEX).sum()) == 5
    assert int((batch["input_ids"] == data.get_tokenizer().mask_token_id).sum()) == 5


def test_the_record_says_how_texts_are_put_to_a_causal_model():
    assert told().prompt_record == {"chat": False}
    assert told(objective="masked").prompt_record is None


def test_probes_are_the_beginnings_of_held_out_documents(tmp_path):
    (tmp_path / "test.txt").write_text("x" * 500 + "\nshort\n", encoding="utf-8")
    data = text_lines(tmp_path, documents(10), test_file=str(tmp_path / "test.txt"))
    assert data.probe() == ["x" * 200, "short"]
    assert len(text_lines(tmp_path, documents(30)).probe()) == 8


def test_a_set_of_ones_own_is_a_class_with_one_method(decoder):
    class Mine(DocumentDataModule):
        def load(self):
            return {"train": datasets.Dataset.from_dict({"body": documents(40)})}

    data = Mine(text_column="body", tokenizer=decoder, objective="causal", max_length=16)
    data.setup("fit")
    assert {split: len(rows) for split, rows in data.read().items()} == {"train": 32, "validation": 4, "test": 4}
    assert refusal(Mine().read) == "Mine train: no column 'text'; its columns are body"


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
