"""P11: predict feeds the very tokens that stand before what was learned; the template goes with the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from peftlit.backbone import Backbone
from peftlit.batch import IGNORE_INDEX
from peftlit.data import ChatFiles, TextFiles, samples
from peftlit.data.chat import Encoded, Renderer
from peftlit.data.label_prompts import LabelPrompts
from peftlit.data.prompt import Prompt
from peftlit.export.classifier import Classifier
from peftlit.export.generator import Generator
from peftlit.export.load import load
from peftlit.export.write import export
from peftlit.modules import CausalLM
from tests import tiny
from tests.conftest import toy_rows
from tests.data import language_data
from tests.data.helpers import refusal, text_files, write_jsonl
from tests.data.language_data import TEMPLATE, turns
from tests.data.test_chat import TEMPLATES
from tests.modules.language_cases import lora

ALL_TEMPLATES = {**TEMPLATES, "plain": TEMPLATE}
TALKS = [
    turns("is it good ?", "very good"),
    turns("the plot", "dull", "why ?", "it was long", "and the cast", "fine"),
    turns(" the  film\n", " superb ", "again ?", "\nnever"),
]
TEXTS = [("the film", " was good"), ("a book is ", "long"), ("it works\n", " , but slow"), ("a ca", "t sat")]
SYSTEM = {"role": "system", "content": "be short"}


def exported(data: ChatFiles | TextFiles, model: Path, folder: Path) -> Path:
    """The folder of a model with this data, as ``fit`` leaves it."""
    module = CausalLM(Backbone(str(model)), lora("llama", r=2), data=data.data_spec())
    module.configure_model(torch.device("cpu"))
    export(module, data.get_tokenizer(), folder, {})
    return folder


def fed_to_generate(generator: Generator, questions: list[Any]) -> list[list[int]]:
    """The tokens that a generator feeds for each question, padding left out."""
    fed: list[list[int]] = []

    def spy(input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> torch.Tensor:
        fed.extend(ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True))
        return torch.cat([input_ids, input_ids[:, -1:]], 1)

    generator.module.model.generate = spy
    generator.predict(questions)
    return fed


def chats(folder: Path, model: Path, rows: list[dict[str, Any]], **settings: Any) -> ChatFiles:
    data = language_data.chat_files(folder, rows, **{"tokenizer": str(model), "max_length": 512, **settings})
    data.setup("fit")
    return data


def messages_and_questions(talks: list[Any]) -> tuple[list[dict[str, Any]], list[Any]]:
    """Rows of conversations, and each without its last turn."""
    return [{"messages": talk} for talk in talks], [talk[:-1] for talk in talks]


def prompts_and_questions(texts: list[tuple[str, str]]) -> tuple[list[dict[str, Any]], list[Any]]:
    """Rows of prompts, and the prompts alone."""
    return [{"prompt": text, "completion": end} for text, end in texts], [text for text, _ in texts]


def before_the_last_completion(data: ChatFiles) -> list[list[int]]:
    """What stands before the last run of learned tokens in each training row."""
    found = []
    for row in data._encoded["train"]:
        start = max(i for i, label in enumerate(row["labels"]) if label == IGNORE_INDEX) + 1
        assert row["labels"][start:] == row["input_ids"][start:] != []
        found.append(row["input_ids"][:start])
    return found


def contract_predict_feeds_what_was_trained(
    folder: Path, model: Path, rows: list[dict[str, Any]], questions: list[Any], **settings: Any
) -> None:
    """The exported folder, loaded again, feeds the tokens before the last completion of every training row."""
    data = chats(folder, model, rows, **settings)
    expected = before_the_last_completion(data)
    generator = load(exported(data, model, folder / "adapter"), device="cpu")
    assert isinstance(generator, Generator)
    assert sorted(fed_to_generate(generator, questions)) == sorted(expected)  # those with room alike go together


@pytest.fixture
def tiny_llama(model_folder) -> Path:
    return model_folder("llama")


@pytest.fixture
def llama(request: pytest.FixtureRequest, model_folder) -> Path:
    if request.param == "tiny":
        return model_folder("llama")
    return request.getfixturevalue("shared") / "models" / "stories260K-llama"


over_models = pytest.mark.parametrize("llama", ["tiny", "stories"], indirect=True)


@over_models
@pytest.mark.parametrize("template", ALL_TEMPLATES)
@pytest.mark.parametrize("form", ["messages", "prompt and completion"])
def test_p11_predict_feeds_a_conversations_tokens_before_its_last_turn(llama, template, form, tmp_path):
    talks = [*TALKS] if template == "llama-2" else [*TALKS, [SYSTEM, *TALKS[1]]]
    rows, questions = messages_and_questions(talks)
    if form != "messages":
        rows = [{"prompt": talk[:-1], "completion": talk[-1:]} for talk in talks]
    contract_predict_feeds_what_was_trained(tmp_path, llama, rows, questions, chat_template=ALL_TEMPLATES[template])


@over_models
def test_p11_a_text_is_a_users_message_to_a_model_that_learned_conversations(llama, tmp_path):
    rows, _ = messages_and_questions([turns("is it good ?", "very good"), turns("the plot", "dull")])
    questions = ["is it good ?", "the plot"]
    contract_predict_feeds_what_was_trained(tmp_path, llama, rows, questions, chat_template=TEMPLATES["zephyr"])


@over_models
def test_p11_predict_feeds_a_texts_tokens_before_its_completion(llama, tmp_path):
    contract_predict_feeds_what_was_trained(tmp_path, llama, *prompts_and_questions(TEXTS))


# Prompts with labels -----------------------------------------------------------------------------------------------

LABEL_PROMPTS = {
    "default": None,
    "text": Prompt("{text} it is", label_words=[" bad", " good"]),
    "several tokens": Prompt("a film : {text} ?", label_words=[" very bad", " good"]),
    **{
        template: Prompt("{text} ?", label_words=["bad", "good"], chat_template=ALL_TEMPLATES[template])
        for template in ("chatml", "zephyr", "llama-2")
    },
    "system": Prompt("{text}", system="is it good ?", label_words=["bad", "good"], chat_template=TEMPLATES["chatml"]),
}


def contract_classifier_feeds_what_was_trained(folder: Path, model: Path, prompt: Prompt | None) -> None:
    """Prompts and label tokens of ``predict`` are those of the training rows, of a text that is cut too."""
    names = ["bad", "good"]
    rows = [{"text": row["text"], "label": names[int(str(row["label"]))]} for row in toy_rows(20)]
    rows.append({"text": "the film was long and " * 30, "label": "bad"})
    settings = {"objective": "causal", "tokenizer": str(model), "max_length": 100, "prompt": prompt}
    data = text_files(folder, rows, label_names=names, **settings)
    data.setup("fit")
    assert data.lengths["train"]["cut"] > 0
    encoded = sorted(data._encoded["train"], key=lambda row: row["row"])
    expected = [(row["input_ids"], row["label_ids"]) for row in encoded]
    classifier = load(exported(data, model, folder / "adapter"), device="cpu")
    assert isinstance(classifier, Classifier)
    fed: dict[int, Any] = {}

    def spy(batch: Any) -> torch.Tensor:
        for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["label_ids"], strict=True):
            fed[len(fed)] = (ids[mask.bool()].tolist(), [one[one != IGNORE_INDEX].tolist() for one in labels])
        return torch.zeros(len(batch["row"]), 2)

    classifier.module.evaluate_batch = spy  # type: ignore[method-assign]
    for row in rows:  # one by one, so that they come in order
        classifier.predict([row["text"]])
    assert list(fed.values()) == expected


@over_models
@pytest.mark.parametrize("prompt", LABEL_PROMPTS)
def test_p11_a_classifier_is_asked_as_it_was_trained(llama, prompt, tmp_path):
    contract_classifier_feeds_what_was_trained(tmp_path, llama, LABEL_PROMPTS[prompt])


# The template is saved ---------------------------------------------------------------------------------------------


def contract_template_is_saved(folder: Path, template: str) -> None:
    """It stands in the exported folder's tokenizer, whoever loads it."""
    assert AutoTokenizer.from_pretrained(folder).chat_template == template
    generator = load(folder, device="cpu")
    assert isinstance(generator, Generator)
    assert generator.chat
    answer = generator.tokenizer.apply_chat_template(turns("the plot"), tokenize=False, add_generation_prompt=True)
    tokens = generator.tokenizer(answer, add_special_tokens=False)["input_ids"]
    assert fed_to_generate(generator, ["the plot"]) == [tokens]


@pytest.mark.slow
def test_p11_the_template_of_the_yaml_is_saved_and_loaded(model_folder, tmp_path, settings, write_config, peftlit):
    rows = [{"messages": turns(f"the plot {word} ?", f"it was {word}")} for word in tiny.WORDS[:40]]
    train = write_jsonl(tmp_path / "chats.jsonl", rows)
    settings["model"]["class_path"] = "CausalLM"
    settings["model"]["init_args"]["backbone"] = {"name_or_path": str(model_folder("llama"))}
    settings["model"]["init_args"]["adapter"]["init_args"]["target_modules"] = tiny.TARGETS["llama"]
    options = {"train_file": train, "chat_template": TEMPLATES["zephyr"], "max_length": 48}
    settings["data"] = {"class_path": "ChatFiles", "init_args": options}
    settings["trainer"] = {"max_epochs": 1, "accelerator": "cpu"}
    code, _, err = peftlit("fit", "--config", write_config(settings), "--run_dir=run")
    assert code == 0, err
    contract_template_is_saved(tmp_path / "run/adapter", TEMPLATES["zephyr"])
    code, out, err = peftlit("predict", "--run_dir=run", "--text", "the plot ?", "--max_new_tokens", 4)
    assert code == 0, err
    assert set(json.loads(out)) == {"row", "text", "finished"}


# Something to learn ------------------------------------------------------------------------------------------------

NOTHING = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"

EMPTY = {
    "no text": ({"prompt": "the film", "completion": ""}, None, "the completion is empty"),
    "the end alone": ({"prompt": "the film", "completion": "</s>"}, None, "the completion is empty"),
    "a long prompt": ({"prompt": "film " * 40, "completion": " good"}, None, "the prompt alone is longer than the"),
    "an empty turn": ({"messages": turns("the film", " ")}, TEMPLATE, "message 2 is empty"),
    "a template without it": ({"messages": turns("the film", "good")}, NOTHING, "renders nothing of message 2"),
    "a long question": ({"messages": turns("film " * 40, "good")}, TEMPLATE, "the prompt alone is longer than"),
}


def contract_something_to_learn(folder: Path, model: Path, case: str) -> None:
    """A row of whose completion nothing would be learned is refused by file and row; no batch has one."""
    row, template, said = EMPTY[case]
    good = {"messages": turns("it", "is")} if "messages" in row else {"prompt": "it", "completion": " is"}
    rows = [row] if template == NOTHING else [good, good, row]
    message = refusal(lambda: chats(folder, model, rows, chat_template=template, max_length=32))
    assert message.startswith(f"{folder / 'train.jsonl'}, row {len(rows)}: ")
    assert said in message


@pytest.mark.parametrize("case", EMPTY)
def test_p11_a_row_with_nothing_to_learn_is_refused_by_file_and_row(case, model_folder, tmp_path):
    contract_something_to_learn(tmp_path, model_folder("llama"), case)


@pytest.mark.parametrize("template", ALL_TEMPLATES)
def test_p11_every_row_that_is_taken_has_something_to_learn(template, model_folder, tmp_path):
    rows = [{"messages": turns(*(f"{word} {i}" for i, word in enumerate(tiny.WORDS[: 2 * n])))} for n in range(1, 12)]
    data = chats(tmp_path, model_folder("llama"), rows, chat_template=ALL_TEMPLATES[template], max_length=40)
    assert template == "bare" or data.lengths["train"]["cut"] > 0
    for batch in data.train_dataloader():
        assert (batch["labels"] != IGNORE_INDEX).any(1).all()


# Breakers ----------------------------------------------------------------------------------------------------------


def test_p11_breaker_predict_without_what_announces_the_answer(tiny_llama, tmp_path, monkeypatch):
    whole = Renderer.render

    def render(self: Renderer, messages: Any, source: str, row: Any, *, add_generation_prompt: bool) -> Any:
        announced = add_generation_prompt and source != "predict"
        return whole(self, messages, source, row, add_generation_prompt=announced)

    monkeypatch.setattr(Renderer, "render", render)
    talks = messages_and_questions(TALKS)
    with pytest.raises(AssertionError):
        contract_predict_feeds_what_was_trained(tmp_path, tiny_llama, *talks, chat_template=TEMPLATES["zephyr"])


def test_p11_breaker_training_rows_tokenized_whole(shared, tmp_path, monkeypatch):
    def whole(self: Renderer, rendered: Any, groups: Any) -> Any:
        for group in groups:
            group[-2] = group[-1][: len(group[-2])]
        return [full[len(prompt) :] for *_, prompt, full in groups]

    monkeypatch.setattr(Renderer, "_completions", whole)
    model, texts = shared / "models" / "stories260K-llama", TEXTS[::-1]  # in no cache
    with pytest.raises(AssertionError):
        contract_predict_feeds_what_was_trained(tmp_path, model, *prompts_and_questions(texts))


def test_p11_breaker_predict_that_takes_a_text_as_it_is(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Generator, "_message", lambda self, question, row: question)
    with pytest.raises(AssertionError):
        test_p11_a_text_is_a_users_message_to_a_model_that_learned_conversations(model_folder("llama"), tmp_path)


def test_p11_breaker_classifier_asked_in_plain_text(model_folder, tmp_path, monkeypatch):
    whole = LabelPrompts.encode

    def plain(self: LabelPrompts, texts: Any, source: str, rows: Any) -> Any:
        self._is_chat = self._is_chat and source != "predict"
        return whole(self, texts, source, rows)

    monkeypatch.setattr(LabelPrompts, "encode", plain)
    with pytest.raises(AssertionError):
        contract_classifier_feeds_what_was_trained(tmp_path, model_folder("llama"), LABEL_PROMPTS["zephyr"])


def test_p11_a_template_is_saved_and_breaker_another_one_is(tiny_llama, tmp_path):
    data = chats(tmp_path, tiny_llama, messages_and_questions(TALKS)[0], chat_template=TEMPLATES["zephyr"])
    contract_template_is_saved(exported(data, tiny_llama, tmp_path / "adapter"), TEMPLATES["zephyr"])
    data.get_tokenizer().chat_template = TEMPLATES["chatml"]
    exported(data, tiny_llama, tmp_path / "adapter")
    with pytest.raises(AssertionError):
        contract_template_is_saved(tmp_path / "adapter", TEMPLATES["zephyr"])


@pytest.mark.parametrize("case", ["a long prompt", "a long question"])
def test_p11_breaker_no_check_of_what_the_window_leaves(case, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "any", lambda labels: True, raising=False)
    with pytest.raises(AssertionError, match="had to be refused"):
        contract_something_to_learn(tmp_path, model_folder("llama"), case)


def test_p11_breaker_completions_without_a_token(model_folder, tmp_path, monkeypatch):
    def encode(self: Renderer, samples: Any, source: str, rows: Any, *, completion_only: bool) -> list[Encoded]:
        return [Encoded([5, 6], [IGNORE_INDEX, 6]) for _ in samples]

    monkeypatch.setattr(Renderer, "encode", encode)
    with pytest.raises(AssertionError, match="had to be refused"):
        contract_something_to_learn(tmp_path, model_folder("llama"), "no text")
