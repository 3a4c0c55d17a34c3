from __future__ import annotations

import pytest
import torch
from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from torch.utils.data import DataLoader

from peftlit.adapters import FullFineTuning
from peftlit.data.tokenizer import load_tokenizer
from peftlit.errors import ConfigError, DataError
from peftlit.export.generator import Generator
from tests.conftest import toy_rows
from tests.modules.cases import make_trainer, tokenizer
from tests.modules.language_cases import CHAT_TEMPLATE, language_batch, lora, make_language_module, shake

TEXTS = [row["text"] for row in toy_rows(6)]
ASKED = [{"role": "user", "content": "is the film good ?"}]


VIRTUAL = {"prompt": PromptTuningConfig, "p": PromptEncoderConfig, "prefix": PrefixTuningConfig}


def generator(folder, family: str, *, chat: bool = False, adapter=None, **backbone) -> Generator:
    module = shake(make_language_module("text", folder, adapter or lora(family), backbone=backbone))
    own = load_tokenizer(str(folder), max_length=64)
    own.chat_template = CHAT_TEMPLATE if chat else None
    found = Generator(module, own, chat=chat)
    found.max_new_tokens = 6
    return found


@pytest.mark.parametrize(
    ("family", "backbone"),
    [("llama", {}), ("gpt2", {}), ("qwen3", {"quantization": "nf4"}), ("gpt2", {"dtype": "bfloat16"})],
)
def test_a_batch_is_answered_as_each_prompt_by_itself(family, backbone, language_folder):
    predictor = generator(language_folder(family), family, **backbone)
    together = predictor.predict(TEXTS, batch_size=6)
    assert len({len(text) for text in TEXTS}) > 1, "there is nothing to pad"
    if "dtype" not in backbone:  # whose rounding decides between tokens that are almost as likely
        assert together == predictor.predict(TEXTS, batch_size=1)
    assert [set(answer) for answer in together] == [{"text", "finished"}] * 6
    assert together == predictor.predict(TEXTS, batch_size=6)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("adapter", VIRTUAL)
def test_p10_padding_does_not_part_virtual_tokens_from_their_prompt(adapter, family, language_folder):
    virtual = VIRTUAL[adapter](num_virtual_tokens=3)
    predictor = generator(language_folder(family), family, adapter=virtual)
    predictor.max_new_tokens = 12
    assert predictor.predict(TEXTS, batch_size=6) == predictor.predict(TEXTS, batch_size=1)
    (answer,) = predictor.predict([" ".join(["film"] * 60)])
    assert len(answer["text"].split()) <= 1, "virtual tokens take three of 64 positions"
    with pytest.raises(DataError, match="row 1: the prompt has 61 tokens and leaves no room in the model's window of"):
        predictor.predict([" ".join(["film"] * 61)])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_long_prompt_takes_no_room_from_others(family, language_folder):
    predictor = generator(language_folder(family), family)
    predictor.max_new_tokens = 30
    long = " ".join(["film"] * 60)
    together = predictor.predict(["good", long, "the cast"], batch_size=3)
    assert together == predictor.predict(["good", long, "the cast"], batch_size=1)
    words = [len(answer["text"].split()) for answer in together]
    assert words[1] <= 4
    for answer, number in zip(together, words, strict=True):
        assert answer["finished"] or number in (4, 30)


def test_padding_is_on_the_left_whatever_side_training_padded(language_folder):
    predictor = generator(language_folder("llama"), "llama")
    assert predictor.tokenizer.padding_side == "right"
    batch = predictor.batch(["good", "a good film"], [1, 2])
    assert batch["attention_mask"].tolist() == [[0, 0, 1], [1, 1, 1]]


def test_a_text_is_a_message_where_conversations_were_learned(language_folder):
    predictor = generator(language_folder("llama"), "llama", chat=True)
    assert predictor.predict(["is the film good ?"]) == predictor.predict([ASKED])
    ids = predictor.batch([ASKED], [1])["input_ids"][0].tolist()
    assert ids == predictor.tokenizer("we is the film good ? ! they", add_special_tokens=False)["input_ids"]
    plain = generator(language_folder("llama"), "llama")
    assert plain.batch(["is the film good ?"], [1])["input_ids"][0].tolist() == ids[1:-2]


def test_a_prompt_that_fills_the_window_is_refused_by_its_row(language_folder):
    predictor = generator(language_folder("llama"), "llama")
    with pytest.raises(DataError, match=r"^predict, row 3: the prompt has 64 tokens and leaves no room in the model's"):
        predictor.predict(["good", "bad", " ".join(["film"] * 64)], batch_size=2)
    (answer,) = predictor.predict([" ".join(["film"] * 63)])
    assert len(answer["text"].split()) <= 1


def test_an_answer_stops_at_the_end_token(language_folder):
    """A model that has learned one sentence by heart says it to its end, and no more."""
    folder = language_folder("llama")
    module = make_language_module("text", folder, FullFineTuning())
    batch = language_batch("text", folder, [{"text": "the film was very good .", "label": 1}] * 4)
    make_trainer(30).fit(module, DataLoader([batch] * 30, batch_size=None))
    predictor = Generator(module.eval(), tokenizer(folder), chat=False)
    assert predictor.predict(["the film", "the film was very"]) == [
        {"text": "was very good .", "finished": True},
        {"text": "good .", "finished": True},
    ]
    for others in (None, 40, [40, 41]):  # what the base calls an end, and what closed the texts that were learned
        module.model.generation_config.eos_token_id = others
        assert predictor.predict(["the film"]) == [{"text": "was very good .", "finished": True}]
    assert predictor._ends().tolist() == [1, 40, 41]
    predictor.max_new_tokens = 2
    assert predictor.predict(["the film"]) == [{"text": "was very", "finished": False}]


def test_chance_has_a_say_where_the_temperature_is_over_zero(language_folder):
    predictor = generator(language_folder("llama"), "llama")
    predictor.temperature = 5.0
    torch.manual_seed(1)
    first = predictor.predict(TEXTS)
    assert first != predictor.predict(TEXTS)
    torch.manual_seed(1)
    assert first == predictor.predict(TEXTS)


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (("a", "b"), r"row 2 is \('a', 'b'\), needs a text or a conversation"),
        (None, "row 2 is None, needs a text or a conversation"),
        ("", "row 2: the prompt has no token, nothing to answer"),
        ([{"role": "assistant", "content": "good"}], "row 2: message 1 is the assistant's, needs the user's there"),
        ([*ASKED, {"role": "assistant", "content": "yes"}], "row 2: the last message is the assistant's, needs the us"),
    ],
)
def test_what_is_no_prompt_is_refused(question, said, language_folder):
    with pytest.raises(DataError, match=said):
        generator(language_folder("llama"), "llama", chat=False).predict(["good", question])


def test_a_conversation_without_a_template_is_refused(language_folder):
    with pytest.raises(ConfigError, match="no chat template"):
        generator(language_folder("llama"), "llama").predict([ASKED])
