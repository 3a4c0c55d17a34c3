from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial

import pytest
from transformers import PreTrainedTokenizerBase

from peftlit.batch import IGNORE_INDEX
from peftlit.data.chat import Renderer, Sample
from peftlit.errors import ConfigError
from tests import tiny
from tests.data.helpers import refusal
from tests.data.language_data import ids, learned, turns

TEMPLATES = {
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "zephyr": (
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    ),
    "llama-2": (
        "{% for m in messages %}{% if m.role == 'user' %}{{ '<s>[INST] ' + m.content + ' [/INST]' }}"
        "{% elif m.role == 'system' %}{{ raise_exception('No system\nmessage here.') }}"
        "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "bare": "{% for m in messages %}{{ m.content }}{% endfor %}",  # every boundary may merge
}
QUESTION = {"role": "user", "content": "film good ?"}
ANSWER = {"role": "assistant", "content": "very good"}
END = 1  # of the tiny decoder


@pytest.fixture(params=["tokenizer", "stories"])
def any_tokenizer(request) -> PreTrainedTokenizerBase:
    return request.getfixturevalue(request.param)


def encode(renderer: Renderer, sample: Sample, *, completion_only: bool = True):
    return renderer.encode([sample], "a.jsonl", [7], completion_only=completion_only)[0]


def random_text(chance: random.Random, *, least: int = 0) -> str:
    pieces = [*tiny.WORDS, " ", "  ", "\n", "\n\n", " the", "s", "é", "日本", "🙂", "<", "{text}", "\t", "'s", "12"]
    return "".join(chance.choice(pieces) + chance.choice(["", " "]) for _ in range(chance.randint(least, 8)))


def test_a_completion_is_learned_with_one_end_token_and_its_prompt_is_not(tokenizer):
    the, film, good, very = (ids(tokenizer, word)[0] for word in ("the", "film", "good", "very"))
    tokenizer.pad_token = tokenizer.eos_token  # must not hide the end
    for completion in (" very good", " very good</s>", " very good</s></s>"):
        encoded = encode(Renderer(tokenizer), Sample("the film", completion))
        assert encoded.input_ids == [the, film, very, good, END]
        assert encoded.labels == [IGNORE_INDEX, IGNORE_INDEX, very, good, END]


def test_special_tokens_in_front_stay_and_those_behind_do_not(tmp_path):
    tokenizer = tiny.write_tokenizer(tmp_path)  # [CLS] $A [SEP]
    tokenizer.eos_token = "[SEP]"
    renderer = Renderer(tokenizer)
    assert renderer.prefix == [tokenizer.cls_token_id]
    encoded = encode(renderer, Sample("the film", " good"))
    assert encoded.input_ids == tokenizer("the film good")["input_ids"]
    assert renderer.encode_prompts(["the film"], "a.jsonl", [1])[0] == tokenizer("the film")["input_ids"][:-1]


def test_a_completion_that_begins_within_a_token_leaves_the_prompt_as_it_is_and_is_counted(stories):
    renderer = Renderer(stories)
    assert ids(stories, "a cat") == [261, 280, 294]  # "at" is one token
    samples = [Sample("a ca", "t"), Sample("a cat", " sat")]
    merged, plain = renderer.encode(samples, "a.jsonl", [1, 2], completion_only=True)
    assert renderer.merged == 1
    assert merged.input_ids[:4] == renderer.encode_prompts(["a ca"], "a.jsonl", [1])[0]
    assert stories.decode(merged.input_ids) == "<s> a cat</s>"  # no blank before the t
    assert merged.labels == [IGNORE_INDEX] * 4 + merged.input_ids[4:]
    assert plain.input_ids == [1, 261, 280, 294, 262, 294, 2]  # <s> ▁a ▁c at ▁s at </s>
    assert plain.labels == [IGNORE_INDEX] * 4 + [262, 294, 2]
    assert renderer.encode_prompts([""], "a.jsonl", [1]) == [[1]]  # <s> can be answered
    assert renderer.encode([], "a.jsonl", [], completion_only=True) == renderer.encode_prompts([], "", []) == []


def test_every_token_but_the_first_is_learned_on_demand(tokenizer):
    unclear = OTHERWISE.replace("m.content", "loop.length ~ m.content")
    for template, sample in (
        (None, Sample("the film", " very")),
        (TEMPLATES["zephyr"], Sample([QUESTION, ANSWER])),
        (unclear, Sample([QUESTION, ANSWER, QUESTION, ANSWER])),
    ):
        renderer = Renderer(tokenizer, chat_template=template)
        encoded = encode(renderer, sample, completion_only=False)
        assert encoded.labels == [IGNORE_INDEX, *encoded.input_ids[1:]]
        assert template == unclear or encoded.input_ids == encode(renderer, sample).input_ids


def test_of_a_conversation_every_assistants_turn_is_learned_that_is_not_of_the_prompt(tokenizer):
    renderer = Renderer(tokenizer, chat_template=TEMPLATES["zephyr"])
    second, third = {"role": "assistant", "content": "the plot"}, {"role": "assistant", "content": "a story"}
    start, very_good, the_plot, a_story = map(ids, [tokenizer] * 4, (
        "<|user|>\nfilm good ?</s>\n<|assistant|>\n", "very good</s>", "the plot</s>", "a story</s>"
    ))  # fmt: skip
    whole = encode(renderer, Sample([QUESTION, ANSWER, QUESTION, second]))
    assert learned([whole.labels]) == [*very_good, *the_plot]
    assert whole.labels[: len(start) + 3] == [IGNORE_INDEX] * len(start) + very_good
    parted = encode(renderer, Sample([QUESTION, ANSWER, QUESTION], [second]))
    assert (parted.input_ids, learned([parted.labels])) == (whole.input_ids, the_plot)
    longer = encode(renderer, Sample([QUESTION, ANSWER, QUESTION], [second, QUESTION, third]))
    assert learned([longer.labels]) == [*the_plot, *a_story]


def test_a_token_that_joins_an_earlier_turn_with_its_neighbours_is_not_learned(stories):
    renderer = Renderer(stories, chat_template=TEMPLATES["bare"])
    encoded = encode(renderer, Sample(turns("a ca", "t sat sa", "t a", " cat")))
    tokens = ["▁a", "▁c", "at", "▁s", "at", "▁s", "at", "▁a", "▁c", "at"]
    assert stories.convert_ids_to_tokens(encoded.input_ids) == tokens
    assert ids(stories, "a ca")[-1:] != ids(stories, "a cat")[-1:]  # "at" is of two turns
    assert stories.convert_ids_to_tokens(ids(stories, "a cat sat sa"))[-1] == "▁sa"  # so is "▁s", "at"
    assert encoded.labels == [*[IGNORE_INDEX] * 3, 262, 294, *[IGNORE_INDEX] * 3, 280, 294]


def random_samples(chance: random.Random, template: str | None) -> Iterator[Sample]:
    for _ in range(150):
        if template is None:
            yield Sample(random_text(chance) + "the", random_text(chance) + " a")
            continue
        contents = (random_text(chance, least=1) for _ in range(2 * chance.randint(1, 3)))
        messages = turns(*(text if text.strip() else text + "the" for text in contents))
        yield Sample(messages)
        if template != "llama-2":
            yield Sample([{"role": "system", "content": random_text(chance)}, *messages[:-1]], messages[-1:])


@pytest.mark.parametrize("template", [None, *TEMPLATES])
@pytest.mark.parametrize("completion_only", [True, False])
def test_predict_feeds_the_very_tokens_in_front_of_what_is_learned_last(any_tokenizer, template, completion_only):
    renderer = Renderer(any_tokenizer, chat_template=TEMPLATES.get(template))
    samples = list(random_samples(random.Random(0), template))
    rows = range(1, len(samples) + 1)
    encoded = renderer.encode(samples, "a.jsonl", rows, completion_only=completion_only)
    questions = [prompt[:-1] if completion is None else prompt for prompt, completion in samples]
    prompts = renderer.encode_prompts(questions, "a.jsonl", rows)
    for sample, prompt, one in zip(samples, prompts, encoded, strict=True):
        assert one.input_ids[: len(prompt)] == prompt
        assert len(one.input_ids) > len(prompt) > 0
        assert one.labels[len(prompt) :] == one.input_ids[len(prompt) :]
        if template is None:
            assert not completion_only or set(one.labels[: len(prompt)]) == {IGNORE_INDEX}
            assert one.input_ids.index(any_tokenizer.eos_token_id) == len(one.input_ids) - 1
            if any_tokenizer.bos_token is not None:
                whole = any_tokenizer(sample.prompt + sample.completion)["input_ids"]
                assert any_tokenizer.decode(one.input_ids[:-1]) == any_tokenizer.decode(whole)
    assert template is not None or 0 < renderer.merged < len(samples) / 2


def test_a_completion_that_an_unknown_word_would_swallow_is_learned(tokenizer):
    assert ids(tokenizer, "the plogood") == ids(tokenizer, "the plo")
    encoded = encode(Renderer(tokenizer), Sample("the plo", "good"))
    assert encoded.labels == [IGNORE_INDEX, IGNORE_INDEX, *ids(tokenizer, "good"), END]


NOTHING = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
OTHERWISE = (
    "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' and loop.last %} !{% endif %}{% endfor %}"
)
BLANK = "{{ messages[0].content }}{% if messages | length > 1 %} \n{% endif %}"
SYSTEM, MUTE = {"role": "system", "content": "be short"}, {**ANSWER, "content": " \n"}
EMPTY = "the completion is empty, nothing to learn; drop the row"
UNCLEAR = "does not render an assistant's turn as a continuation of the text before it; set data.completion_only: false"
REFUSED = [
    (None, Sample("the film", ""), EMPTY),
    (None, Sample("the film", "</s>"), EMPTY),
    ("zephyr", Sample([QUESTION, ANSWER], []), EMPTY),
    ("zephyr", Sample([QUESTION, MUTE]), "message 2 is empty, nothing to learn; drop the row"),
    (BLANK, Sample([QUESTION, ANSWER]), "no token after the prompt, nothing to learn; drop the row"),
    ("llama-2", Sample([SYSTEM, QUESTION, ANSWER]), "{} refuses the conversation: No system message here"),
    (NOTHING, Sample([QUESTION, ANSWER]), "{} renders nothing of message 2, nothing to learn; fix data.chat_template"),
    (OTHERWISE, Sample([QUESTION, ANSWER, QUESTION, ANSWER]), f"{{}} {UNCLEAR}"),
]


def test_rows_with_nothing_to_learn_are_refused_by_number(tokenizer):
    for template, sample, said in REFUSED:
        tokenizer.chat_template = None
        renderer = Renderer(tokenizer, chat_template=TEMPLATES.get(template, template))
        samples, rows = ([sample], [7]) if template else ([Sample("the film", " good"), sample], [4, 7])
        encode_all = partial(renderer.encode, samples, "a.jsonl", rows, completion_only=True)
        assert refusal(encode_all) == f"a.jsonl, row 7: {said.format('the chat template')}"


def test_prompts_that_cannot_be_answered_are_refused(tokenizer):
    renderer = Renderer(tokenizer, chat_template=TEMPLATES["zephyr"])
    for prompt, said in (
        ("", "the prompt has no token, nothing to answer; write one"),
        ("\ud83d", "prompt holds half of a surrogate pair, which is no UTF-8"),
        ([QUESTION, ANSWER], "the last message is the assistant's, needs the user's there"),
    ):
        message = refusal(lambda prompt=prompt: renderer.encode_prompts(["the film", prompt], "a.jsonl", [4, 7]))
        assert message == f"a.jsonl, row 7: {said}"


def test_templates_and_eos_tokens_that_are_missing_or_not_valid_are_named(tokenizer):
    missing = "data.chat_template: the tokenizer has no chat template and the rows are conversations; give one"
    invalid = "data.chat_template: not valid in line 2: Expected an expression, got 'end of statement block'; fix it"
    for call, said in (
        (lambda: encode(Renderer(tokenizer), Sample([QUESTION, ANSWER])), missing),
        (lambda: Renderer(tokenizer).encode_prompts([[QUESTION]], "a.jsonl", [7]), missing),
        (lambda: Renderer(tokenizer, chat_template="{{ messages }}\n{% if %}"), invalid),
    ):
        assert refusal(call, ConfigError) == said
    tokenizer.eos_token = None
    message = refusal(lambda: encode(Renderer(tokenizer), Sample("the film", " good")))
    assert message == "data.tokenizer: it has no eos token to end completions with; set eos_token in it"
