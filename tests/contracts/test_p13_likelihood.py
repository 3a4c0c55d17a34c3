"""P13: labels are scored by the likelihood that plain transformers gives them, in flat memory, without generation."""

from __future__ import annotations

import gc
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from peft import LoraConfig, PeftModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationMixin, PreTrainedTokenizerFast

import peftlit
from peftlit.backbone import Backbone
from peftlit.data import TextFiles
from peftlit.data.label_prompts import LabelPrompts
from peftlit.data.prompt import Prompt
from peftlit.errors import ConfigError, DataError
from peftlit.export.write import export
from peftlit.modules import CausalLM, label_scores
from peftlit.run.predictions import Predictions
from tests import device, tiny
from tests.conftest import toy_rows
from tests.data.helpers import text_files
from tests.modules.cases import make_trainer
from tests.modules.language_cases import shake

WORDS = {
    "one token": ["bad", "good"],
    "several tokens": ["very bad", "awfully good film"],
    "alike at first": ["very bad", "very good"],
}
"""What the model would say for each label. They follow a space, which these tokens take in."""

TEMPLATE = "{text} it was "
TOLERANCE = 1e-4
"""Of the logarithm of a probability: sums of a few float32 logits of up to 30."""

SCORED = [("one token", "first_token"), ("several tokens", "first_token"), ("several tokens", "sequence"),
          ("alike at first", None)]  # fmt: skip
"""Words, and how they are scored: null where peftlit chooses."""


@pytest.fixture(scope="module")
def byte_folder(tmp_path_factory: pytest.TempPathFactory):
    """Return a function that writes a tiny decoder whose byte-level tokens depend on what stands before them."""

    @cache
    def write(family: str) -> Path:
        folder = tmp_path_factory.mktemp(f"bytes-{family}")
        tiny.write_model(folder, family, vocab_size=320, initializer_range=0.2)
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = {"special_tokens": ["</s>"], "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
        trainer = trainers.BpeTrainer(vocab_size=320, show_progress=False, **alphabet)
        backend.train_from_iterator([row["text"] + " it was very good" for row in toy_rows(40)], trainer)
        PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>").save_pretrained(folder)
        return folder

    return write


class Answers(Callback):
    """Keep the probabilities of every row."""

    def __init__(self) -> None:
        self.of_row: dict[int, Tensor] = {}

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.of_row |= dict(zip(outputs["row"].tolist(), outputs["answers"], strict=True))


def labelled_data(folder: Path, tmp_path: Path, words: list[str], **settings: Any) -> TextFiles:
    rows, prompt = toy_rows(40), Prompt(TEMPLATE, label_words=words)
    settings = {"tokenizer": str(folder), "max_length": 60, "eval_batch_size": 6, "prompt": prompt, **settings}
    return text_files(tmp_path, rows[:20], rows[20:], objective="causal", **settings)


def classifier(folder: Path, data: TextFiles, scoring: Any) -> CausalLM:
    """A causal language model with an adapter that matters, made for the data."""
    adapter = LoraConfig(r=4, target_modules=["c_attn"] if "gpt2" in folder.name else ["q_proj", "v_proj"])
    return shake(CausalLM(Backbone(str(folder)), adapter, scoring=scoring, data=data.data_spec()))


@torch.no_grad()
def plain_log_probabilities(
    folder: Path, adapter: Path, texts: list[str], words: list[str], scoring: str
) -> list[Tensor]:
    """What transformers and peft say of each text by itself: (labels,). Nothing of peftlit, no padding."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), adapter).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def score(question: str, word: str) -> Tensor:
        whole = tokenizer(question + word, return_tensors="pt")["input_ids"]
        # the question's tokens but the space at its end, which the answer's first token takes in
        asked = len(tokenizer(question.rstrip())["input_ids"])
        logits, answer = model(input_ids=whole).logits[0], whole[0, asked:]
        if scoring == "first_token":
            return logits[asked - 1, answer[0]]
        return logits[asked - 1 : -1].log_softmax(-1).gather(1, answer.unsqueeze(1)).sum()

    questions = [TEMPLATE.replace("{text}", text) for text in texts]
    return [torch.stack([score(question, word) for word in words]).log_softmax(-1) for question in questions]


def contract_probabilities_are_those_of_plain_transformers(
    folder: Path, tmp_path: Path, words: str, scoring: Any, **settings: Any
) -> None:
    data, answers = labelled_data(folder, tmp_path, WORDS[words], **settings), Answers()
    module = classifier(folder, data, scoring)
    export(module, data.get_tokenizer(), tmp_path / "adapter", {})
    make_trainer(-1, answers, use_distributed_sampler=False).test(module, datamodule=data, verbose=False)
    texts = data.read()["test"]["text"][:]
    assert sorted(answers.of_row) == list(range(1, len(texts) + 1))
    expected = plain_log_probabilities(folder, tmp_path / "adapter", texts, WORDS[words], module.scoring)
    odds = torch.stack([one[0] - one[1] for one in expected])
    assert odds.max() - odds.min() > 0.1, "all rows are answered alike; this would prove nothing"
    told = peftlit.load(tmp_path / "adapter", device=device.current).predict(texts, batch_size=5)
    for row, (logs, answer) in enumerate(zip(expected, told, strict=True), 1):
        for found in (answers.of_row[row].cpu(), torch.tensor(list(answer["probabilities"].values()))):
            difference = float((found.log() - logs).abs().max())
            assert difference < TOLERANCE, f"row {row}: log-probabilities differ by {difference:.2g}"


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("words", "scoring"), SCORED)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_p13_probabilities_are_those_of_plain_transformers(family, words, scoring, side, byte_folder, tmp_path):
    contract_probabilities_are_those_of_plain_transformers(
        byte_folder(family), tmp_path, words, scoring, padding_side=side
    )


@pytest.fixture
def folder(byte_folder) -> Path:
    return byte_folder("llama")


def test_p13_labels_that_begin_alike_are_scored_whole_or_refused(folder, tmp_path):
    data = labelled_data(folder, tmp_path, WORDS["alike at first"])
    assert classifier(folder, data, None).scoring == "sequence"
    with pytest.raises(ConfigError, match="first_token cannot tell them apart"):
        classifier(folder, data, "first_token")
    with pytest.raises(ConfigError, match="begin those of .* cannot be told apart"):
        classifier(folder, labelled_data(folder, tmp_path, ["good", "good film"]), "sequence")


def test_p13_labels_that_begin_alike_behind_one_row_only_are_refused_there(folder, tmp_path):
    data = labelled_data(folder, tmp_path, WORDS["one token"])
    module = classifier(folder, data, "first_token")
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    batch["label_ids"][2] = batch["label_ids"][2, :1]
    with pytest.raises(DataError, match=f"row {int(batch['row'][2])}: behind this text two labels begin with the same"):
        module.logits(batch)


def test_p13_nothing_is_generated(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(GenerationMixin, "generate", lambda *_, **__: pytest.fail("text was generated"))
    data = labelled_data(folder, tmp_path, WORDS["one token"])
    module = classifier(folder, data, None)
    trainer = make_trainer(2, use_distributed_sampler=False)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    export(module, data.get_tokenizer(), tmp_path / "adapter", {})
    assert peftlit.load(tmp_path / "adapter", device="cpu").predict(["good"])[0]["label"] in ("0", "1")


class LiveBytes(Callback):
    """Note after every batch how many bytes all living tensors hold."""

    def __init__(self) -> None:
        self.after_batch: list[int] = []

    def on_test_batch_end(self, *_: Any) -> None:
        self.after_batch.append(live_bytes())


def live_bytes() -> int:
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (Tensor, torch.nn.Parameter) and thing.device.type == "cpu":
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def contract_evaluation_holds_no_rows(folder: Path, tmp_path: Path) -> None:
    """After each batch, and in the end, there is as much as before: what is kept does not grow with the rows."""
    data = labelled_data(folder, tmp_path, WORDS["several tokens"])
    module = classifier(folder, data, "sequence")
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    ends = []
    for batches in (2, 4):
        live = LiveBytes()
        loader = torch.utils.data.DataLoader([batch] * batches, batch_size=None)
        make_trainer(-1, live).test(module, loader, verbose=False)
        assert set(live.after_batch[1:]) == {live.after_batch[1]}, f"bytes grow with the rows: {live.after_batch}"
        predictions = Predictions(tmp_path / "predictions.csv", module.problem)
        make_trainer(-1, predictions).test(module, loader, verbose=False)
        assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 1 + batches * len(batch["row"])
        del loader, live
        ends.append(live_bytes())
        del predictions
    assert ends[0] == ends[1], f"{ends[1] - ends[0]} bytes more are held after twice the rows"


def test_p13_evaluation_holds_no_rows(folder, tmp_path):
    contract_evaluation_holds_no_rows(folder, tmp_path)


def test_p13_goes_red_when_a_label_is_tokenized_by_itself(folder, tmp_path, monkeypatch):
    in_context = LabelPrompts._candidates

    def by_itself(self: LabelPrompts, *arguments: Any) -> Any:
        alone = self._renderer.tokenize(self.words)
        return [one._replace(label_ids=alone) for one in in_context(self, *arguments)]

    monkeypatch.setattr(LabelPrompts, "_candidates", by_itself)
    with pytest.raises(AssertionError, match="log-probabilities differ"):
        contract_probabilities_are_those_of_plain_transformers(folder, tmp_path, "one token", "sequence")


def test_p13_goes_red_when_the_last_position_is_read_padded_or_not(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(label_scores, "_last_states", lambda head, inputs: head.hidden_states(inputs)[:, -1])
    with pytest.raises(AssertionError, match="log-probabilities differ"):
        contract_probabilities_are_those_of_plain_transformers(
            folder, tmp_path, "one token", "first_token", padding_side="right"
        )


def test_p13_goes_red_when_labels_see_one_another(folder, tmp_path, monkeypatch):
    def all_before(mask: Tensor, branches: Tensor) -> Tensor:
        tokens = torch.cat([mask.bool(), torch.ones(len(mask), len(branches), dtype=torch.bool)], 1)
        return tokens.unsqueeze(1) & torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).tril()

    monkeypatch.setattr(label_scores, "_seen", all_before)
    with pytest.raises(AssertionError, match="log-probabilities differ"):
        contract_probabilities_are_those_of_plain_transformers(folder, tmp_path, "several tokens", "sequence")


@pytest.mark.slow
def test_p13_goes_red_when_evaluation_keeps_its_scores(folder, tmp_path, monkeypatch):
    kept, scores = [], CausalLM.label_scores

    def keep(self: CausalLM, batch: Any) -> Tensor:
        kept.append(scores(self, batch))
        return kept[-1]

    monkeypatch.setattr(CausalLM, "label_scores", keep)
    with pytest.raises(AssertionError, match="bytes"):
        contract_evaluation_holds_no_rows(folder, tmp_path)
