from __future__ import annotations

import json
import random

import pytest
from tokenizers import normalizers

from peftlit.data.label_prompts import EncodedPrompt, LabelPrompts
from peftlit.data.prompt import Prompt
from peftlit.errors import ConfigError
from tests import tiny
from tests.data.helpers import refusal
from tests.data.language_data import ids
from tests.data.test_chat import TEMPLATES, random_text

NAMES = ["negative", "positive"]
WORDS = [" bad", " good"]


def ask(tokenizer, prompt: Prompt, text, *, names=NAMES, max_length: int = 64) -> EncodedPrompt:
    return LabelPrompts(prompt, tokenizer, names, max_length).encode([text], "a.jsonl", [7])[0]


def size(found: EncodedPrompt) -> int:
    return len(found.input_ids) + max(map(len, found.label_ids))


def test_the_template_takes_texts_as_they_are():
    assert Prompt("Q: {text} {text}").fill("{text} {0} \\1 {") == "Q: {text} {0} \\1 { {text} {0} \\1 {"
    assert Prompt("{text_pair} / {text}").fill(("{text_pair}", "b")) == "b / {text_pair}"


def test_settings_make_the_same_prompt_again():
    given = {"template": "{text} ?", "system": "be short", "label_words": WORDS, "chat": True, "chat_template": "a"}
    assert Prompt(**given).settings() == given == json.loads(json.dumps(given))
    assert Prompt(**Prompt().settings()).settings() == Prompt().settings()


KNOWN = "knows {text} and {text_pair}"
PLAIN = "a plain text has none; unset it, or set data.prompt.chat: true"
REFUSED = [
    ({"template": "{txt}"}, f"template: got the placeholder {{txt}}, {KNOWN}"),
    ({"template": "{text} {}"}, f"template: got the placeholder {{}}, {KNOWN}"),
    ({"template": "{text!r}"}, f"template: got the placeholder {{text!r}}, {KNOWN}"),
    ({"template": "say it"}, "template: got 'say it', needs {text} where the text stands"),
    ({"template": "{text_pair}"}, "template: got '{text_pair}', needs {text} where the text stands"),
    ({"system": "be short", "chat": False}, f"system: {PLAIN}"),
    ({"chat_template": "{{ 1 }}", "chat": False}, f"chat_template: {PLAIN}"),
    ({"label_words": ["good", " "]}, "label_words: word 2 is ' ', needs a text"),
    ({"label_words": ["good", 3]}, "label_words: word 2 is 3, needs a text"),
    ({"label_words": ["good", "bad", "good"]}, "label_words: 'good' is there twice; give each label its own"),
]


def test_settings_are_checked_at_once():
    for settings, said in REFUSED:
        assert refusal(lambda given=settings: Prompt(**given), ConfigError) == f"data.prompt.{said}"


def test_there_is_a_word_for_every_label():
    assert Prompt().words(NAMES) == NAMES
    assert Prompt(label_words=WORDS).words(NAMES) == WORDS
    assert refusal(lambda: Prompt(label_words=WORDS).words([*NAMES, "neutral"]), ConfigError) == (
        "data.prompt.label_words: got 2 words, needs 3, one for each of negative, positive, neutral"
    )


def test_it_is_a_chat_where_there_is_a_template_and_needs_one(tokenizer):
    for settings, own, chat in (
        ({}, None, False),
        ({}, "{{ 1 }}", True),
        ({"chat": False}, "{{ 1 }}", False),
        ({"chat_template": "{{ 1 }}"}, None, True),
        ({"system": "be short"}, "{{ 1 }}", True),
    ):
        tokenizer.chat_template = own
        assert Prompt(**settings).is_chat(tokenizer) is chat
    tokenizer.chat_template = None
    for settings in ({"chat": True}, {"system": "be short"}):
        assert refusal(lambda given=settings: LabelPrompts(Prompt(**given), tokenizer, NAMES, 64), ConfigError) == (
            "data.prompt.chat_template: the tokenizer has no chat template and prompt asks for a chat; give one"
        )


def test_prompts_and_their_labels(tokenizer):
    chat = "<|system|>\nbe short</s>\n<|user|>\nthe film ?</s>\n<|assistant|>\n"
    for text, expected, settings in (
        ("the film !", "the film ! it is", {"template": "{text} it is"}),
        (("the film", "a book"), "a book but the film :", {"template": "{text_pair} but {text} :"}),
        ("the film", chat, {"template": "{text} ?", "system": "be short", "chat_template": TEMPLATES["zephyr"]}),
    ):
        found = ask(tokenizer, Prompt(**settings, label_words=WORDS), text)
        assert found == (ids(tokenizer, expected), [ids(tokenizer, "bad"), ids(tokenizer, "good")], size(found))


def test_only_special_tokens_in_front_are_kept_in_a_plain_text(tmp_path):
    tokenizer = tiny.write_tokenizer(tmp_path)  # [CLS] $A [SEP]
    found = ask(tokenizer, Prompt("{text} is", label_words=WORDS), "it")
    assert found.input_ids == tokenizer("it is")["input_ids"][:-1]


def test_a_question_ends_where_the_first_answer_merges_with_it(stories):
    assert stories("a ")["input_ids"] == [1, 261, 410]
    for template, words, expected in (
        ("{text}", [" cat", " sat"], ([1, 261], [[280, 294], [262, 294]], 4)),  # <s> ▁a; ▁c at, ▁s at
        ("{text} ", ["cat", "\nx"], ([1, 261], [[280, 294], [410, 13, 444]], 5)),  # "▁c" holds the blank
    ):
        assert ask(stories, Prompt(template, label_words=words), "a") == expected


@pytest.mark.parametrize("template", [None, "chatml", "zephyr", "llama-2"])
def test_every_question_with_every_answer_is_one_text(stories, template):
    chance = random.Random(0)
    words = [" sad", " okay", " happy", "cat"]
    prompt = Prompt("{text}\nIs it {text}? ", label_words=words, chat_template=TEMPLATES.get(template))
    asker = LabelPrompts(prompt, stories, words, 10_000)
    texts = [random_text(chance) for _ in range(200)]
    for text, found in zip(texts, asker.encode(texts, "a.jsonl", range(1, 201)), strict=True):
        if template is None:
            front, asked = [1], f"{text}\nIs it {text}? "
        else:
            message = [{"role": "user", "content": f"{text}\nIs it {text}? "}]
            front, asked = [], stories.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        for word, rest in zip(words, found.label_ids, strict=True):
            assert [*found.input_ids, *rest] == [*front, *ids(stories, asked + word)]
        assert len(found.input_ids) > 0
        assert found.tokens == size(found)


def test_a_long_text_is_cut_at_its_right_end_and_nothing_else_is(tokenizer):
    text = "the film was very long and slow but the ending was superb"
    prompt = Prompt("a movie : {text} . it is", label_words=[" very bad", " good"])
    whole = ask(tokenizer, prompt, text)
    assert whole.tokens == size(whole) == 3 + 12 + 3 + 2
    cut = ask(tokenizer, prompt, text, max_length=14)
    assert cut.input_ids == ids(tokenizer, "a movie : the film was very long and . it is")
    assert cut.label_ids == whole.label_ids
    assert cut.tokens == 20


def test_of_a_long_pair_the_longer_text_gives_way_first(tokenizer):
    prompt = Prompt("{text} : {text_pair} ?", label_words=WORDS)
    long, short = "the film was very long and slow", "it is"
    for pair, expected in (
        ((long, short), "the film was very : it is ?"),
        ((short, long), "it is : the film was very ?"),
        ((long, long), "the film was : the film was ?"),
    ):
        assert ask(tokenizer, prompt, pair, max_length=9).input_ids == ids(tokenizer, expected)


@pytest.mark.parametrize("template", [None, "zephyr"])
def test_all_rows_fit_and_keep_what_they_can(stories, template):
    chance = random.Random(1)
    texts = ["".join(random_text(chance) for _ in range(chance.randint(1, 12))) for _ in range(200)]
    prompt = Prompt("{text}\nIt is", label_words=[" sad", " okay"], chat_template=TEMPLATES.get(template))
    uncut = LabelPrompts(prompt, stories, NAMES, 10_000).encode(texts, "a.jsonl", range(1, 201))
    found = LabelPrompts(prompt, stories, NAMES, 80).encode(texts, "a.jsonl", range(1, 201))
    cut = 0
    for before, after in zip(uncut, found, strict=True):
        assert after.tokens == before.tokens
        if before.tokens <= 80:
            assert after == before
        else:
            cut += 1
            assert 70 < size(after) <= 80
            assert after.label_ids == before.label_ids
            assert after.input_ids[-4:] == before.input_ids[-4:]
    assert cut > 50


def test_characters_of_several_tokens_are_cut_one_by_one(stories):
    prompt = Prompt("{text}\nIt is", label_words=[" sad", " okay"])
    for max_length in range(60, 68):
        found = ask(stories, prompt, "a " + "🙂" * 60, max_length=max_length)
        assert max_length - 4 < size(found) <= max_length  # 4 bytes, 4 tokens


@pytest.mark.parametrize("text", ["it " * 40 + " " * 20_000 + "is", " " * 20_000, "?" * 20_000])
def test_cutting_ends_soon_whatever_the_text(tokenizer, stories, text, monkeypatch):
    for one in (tokenizer, stories):
        asker = LabelPrompts(Prompt("{text} the film", label_words=WORDS), one, NAMES, 30)
        calls = []
        tokenize = asker._renderer.tokenize
        monkeypatch.setattr(asker._renderer, "tokenize", lambda texts, f=tokenize, c=calls: (c.append(1), f(texts))[1])
        assert size(asker.encode([text], "a.jsonl", [1])[0]) <= 30
        assert len(calls) < 60


def test_a_template_longer_than_the_window_is_refused(tokenizer):
    prompt = Prompt("{text} it was a film :", label_words=WORDS)
    for text in ("", "the film was very long"):
        assert refusal(lambda text=text: ask(tokenizer, prompt, text, max_length=5), ConfigError) == (
            "data.prompt.template: the template alone takes 6 tokens of a window of 5; shorten it or raise "
            "data.max_length"
        )


def test_answers_that_cannot_be_told_apart_are_refused(tokenizer):
    begin = "the tokens of {} begin those of {}, so the two cannot be told apart; give one another word"
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    for words, said in (
        ([" good", "good"], begin.format("' good' (label negative)", "'good' (label positive)")),
        ([" very good", " very"], begin.format("' very' (label positive)", "' very good' (label negative)")),
        ([" good", "\u200b"], "'\\u200b' (label positive) adds no token to the question; give it another word"),
    ):
        prompt = Prompt("{text} is ", label_words=words)
        message = refusal(lambda prompt=prompt: ask(tokenizer, prompt, "it"), ConfigError)
        assert message == f"data.prompt.label_words: {said}"
    same_start = ask(tokenizer, Prompt("{text} is", label_words=[" very bad", " very good"]), "it")
    assert same_start.label_ids == [ids(tokenizer, "very bad"), ids(tokenizer, "very good")]


def test_rows_that_do_not_go_with_the_template_are_refused_by_number(tokenizer):
    silent = "no token stands before the answer; write something in front of {text} in data.prompt.template"
    for template, text, said in (
        ("{text} {text_pair}", "it", "has one text, and data.prompt.template asks for {text_pair}; leave it out"),
        ("{text}", ("it", "is"), "has two texts; name {text_pair} in data.prompt.template"),
        ("{text}", "", silent),
    ):
        prompt = Prompt(template, label_words=WORDS)
        assert refusal(lambda one=prompt, text=text: ask(tokenizer, one, text)) == f"a.jsonl, row 7: {said}"
