from __future__ import annotations

import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from peftlit.batch import IGNORE_INDEX
from peftlit.data.chat import Renderer, Sample, common_length
from peftlit.errors import ConfigError, DataError
from tests import tiny

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


@pytest.fixture
def tokenizer(tmp_path) -> PreTrainedTokenizerBase:
    return tiny.write_tokenizer(tmp_path, decoder=True)


@pytest.fixture(params=["tiny", "stories"])
def any_tokenizer(request, tmp_path) -> PreTrainedTokenizerBase:
    if request.param == "tiny":
        return tiny.write_tokenizer(tmp_path, decoder=True)
    return stories(request.getfixturevalue("shared"))


def stories(shared: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(shared / "models" / "stories260K-llama")


def encode(renderer: Renderer, sample: Sample, *, completion_only: bool = True):
    return renderer.encode([sample], "a.jsonl", [7], completion_only=completion_only)[0]


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def learned(encoded) -> list[int]:
    return [label for label in encoded.labels if label != IGNORE_INDEX]


def random_text(chance: random.Random, *, least: int = 0) -> str:
    pieces = [*tiny.WORDS, " ", "  ", "\n", "\n\n", " the", "s", "é", "日本", "🙂", "<", "{text}", "\t", "'s", "12"]
    return "".join(chance.choice(pieces) + chance.choice(["", " "]) for _ in range(chance.randint(least, 8)))


def test_common_length():
    assert common_length([1, 2, 3], [1, 2, 3, 4]) == 3
    assert common_length([1, 2, 3], [1, 5, 3]) == 1
    assert common_length([], [1]) == 0


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


def test_a_completion_that_begins_within_a_token_leaves_the_prompt_as_it_is_and_is_counted(shared):
    tokenizer = stories(shared)
    renderer = Renderer(tokenizer)
    assert ids(tokenizer, "a cat") == [261, 280, 294]  # "at" is one token
    samples = [Sample("a ca", "t"), Sample("a cat", " sat")]
    merged, plain = renderer.encode(samples, "a.jsonl", [1, 2], completion_only=True)
    assert renderer.merged == 1
    assert merged.input_ids[:4] == renderer.encode_prompts(["a ca"], "a.jsonl", [1])[0]
    assert tokenizer.decode(merged.input_ids) == "<s> a cat</s>"  # no blank before the t
    assert merged.labels == [IGNORE_INDEX] * 4 + merged.input_ids[4:]
    assert plain.input_ids == [1, 261, 280, 294, 262, 294, 2]  # <s> ▁a ▁c at ▁s at </s>
    assert plain.labels == [IGNORE_INDEX] * 4 + [262, 294, 2]
    assert renderer.encode_prompts([""], "a.jsonl", [1]) == [[1]]  # <s> can be answered
    assert renderer.encode([], "a.jsonl", [], completion_only=True) == renderer.encode_prompts([], "", []) == []


def test_every_token_but_the_first_is_learned_on_demand(tokenizer):
    texts = encode(Renderer(tokenizer), Sample("the film", " very"), completion_only=False)
    assert texts.labels == [IGNORE_INDEX, *texts.input_ids[1:]]
    renderer = Renderer(tokenizer, chat_template=TEMPLATES["zephyr"])
    chat = encode(renderer, Sample([QUESTION, ANSWER]), completion_only=False)
    assert chat.labels == [IGNORE_INDEX, *chat.input_ids[1:]]
    assert chat.input_ids == encode(renderer, Sample([QUESTION, ANSWER])).input_ids
    renderer = Renderer(tokenizer, chat_template=OTHERWISE.replace("m.content", "loop.length ~ m.content"))
    unclear = encode(renderer, Sample([QUESTION, ANSWER, QUESTION, ANSWER]), completion_only=False)
    assert unclear.labels == [IGNORE_INDEX, *unclear.input_ids[1:]]


def test_of_a_conversation_every_assistants_turn_is_learned_that_is_not_of_the_prompt(tokenizer):
    renderer = Renderer(tokenizer, chat_template=TEMPLATES["zephyr"])
    second, third = {"role": "assistant", "content": "the plot"}, {"role": "assistant", "content": "a story"}
    start, very_good, the_plot, a_story = (
        ids(tokenizer, text)
        for text in (
            "<|user|>\nfilm good ?</s>\n<|assistant|>\n", "very good</s>", "the plot</s>", "a story</s>"
        )
    )  # fmt: skip
    whole = encode(renderer, Sample([QUESTION, ANSWER, QUESTION, second]))
    assert learned(whole) == [*very_good, *the_plot]
    assert whole.labels[: len(start) + 3] == [IGNORE_INDEX] * len(start) + very_good
    parted = encode(renderer, Sample([QUESTION, ANSWER, QUESTION], [second]))
    assert (parted.input_ids, learned(parted)) == (whole.input_ids, the_plot)
    longer = encode(renderer, Sample([QUESTION, ANSWER, QUESTION], [second, QUESTION, third]))
    assert learned(longer) == [*the_plot, *a_story]


def test_a_token_that_joins_an_earlier_turn_with_its_neighbours_is_not_learned(shared):
    tokenizer = stories(shared)
    renderer = Renderer(tokenizer, chat_template=TEMPLATES["bare"])
    words = [("user", "a ca"), ("assistant", "t sat sa"), ("user", "t a"), ("assistant", " cat")]
    encoded = encode(renderer, Sample([{"role": role, "content": content} for role, content in words]))
    tokens = ["▁a", "▁c", "at", "▁s", "at", "▁s", "at", "▁a", "▁c", "at"]
    assert tokenizer.convert_ids_to_tokens(encoded.input_ids) == tokens
    assert ids(tokenizer, "a ca")[-1:] != ids(tokenizer, "a cat")[-1:]  # "at" is of two turns
    assert tokenizer.convert_ids_to_tokens(ids(tokenizer, "a cat sat sa"))[-1] == "▁sa"  # so is "▁s", "at"
    assert encoded.labels == [*[IGNORE_INDEX] * 3, 262, 294, *[IGNORE_INDEX] * 3, 280, 294]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("completion_only", [True, False])
def test_predict_feeds_the_very_tokens_in_front_of_the_last_turn(any_tokenizer, template, completion_only):
    renderer = Renderer(any_tokenizer, chat_template=TEMPLATES[template])
    chance = random.Random(0)
    prompts, samples = [], []
    for _ in range(150):
        contents = [random_text(chance, least=1) or "a" for _ in range(2 * chance.randint(1, 3))]
        messages = [
            {"role": "assistant" if i % 2 else "user", "content": text if text.strip() else text + "the"}
            for i, text in enumerate(contents)
        ]
        prompts.append(messages[:-1])
        samples.append(Sample(messages))
        if template == "llama-2":
            continue
        prompts.append([{"role": "system", "content": random_text(chance)}, *messages[:-1]])
        samples.append(Sample(prompts[-1], messages[-1:]))
    rows = range(1, len(samples) + 1)
    encoded = renderer.encode(samples, "a.jsonl", rows, completion_only=completion_only)
    for prompt, one in zip(renderer.encode_prompts(prompts, "a.jsonl", rows), encoded, strict=True):
        assert one.input_ids[: len(prompt)] == prompt
        assert len(one.input_ids) > len(prompt) > 0
        assert one.labels[len(prompt) :] == one.input_ids[len(prompt) :]


def test_predict_feeds_the_very_tokens_in_front_of_a_completion(any_tokenizer):
    renderer = Renderer(any_tokenizer)
    chance = random.Random(0)
    samples = [Sample(random_text(chance) + "the", random_text(chance) + " a") for _ in range(400)]
    rows = range(1, len(samples) + 1)
    encoded = renderer.encode(samples, "a.jsonl", rows, completion_only=True)
    prompts = renderer.encode_prompts([sample.prompt for sample in samples], "a.jsonl", rows)
    for sample, prompt, one in zip(samples, prompts, encoded, strict=True):
        assert one.input_ids[: len(prompt)] == prompt
        assert one.labels == [IGNORE_INDEX] * len(prompt) + one.input_ids[len(prompt) :]
        assert one.input_ids.count(any_tokenizer.eos_token_id) == 1
        assert one.input_ids[-1] == any_tokenizer.eos_token_id
        if any_tokenizer.bos_token is not None:
            whole = any_tokenizer(sample.prompt + sample.completion)["input_ids"]
            assert any_tokenizer.decode(one.input_ids[:-1]) == any_tokenizer.decode(whole)
    assert 0 < renderer.merged < len(samples) / 2


def test_a_completion_that_an_unknown_word_would_swallow_is_learned(tokenizer):
    assert ids(tokenizer, "the plogood") == ids(tokenizer, "the plo")
    encoded = encode(Renderer(tokenizer), Sample("the plo", "good"))
    assert encoded.labels == [IGNORE_INDEX, IGNORE_INDEX, *ids(tokenizer, "good"), END]


NOTHING = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
OTHERWISE = (
    "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' and loop.last %} !{% endif %}{% endfor %}"
)
EMPTY = "the completion is empty, nothing to learn; drop the row"
KINDS = "needs two texts or two lists of messages"
SURROGATE = "holds half of a surrogate pair, which is no UTF-8"
REFUSED = [
    (None, Sample("the film", ""), EMPTY),
    (None, Sample("the film", "</s>"), EMPTY),
    (None, Sample("the film", 3), f"prompt is a str and completion a int; {KINDS}"),
    (None, Sample("the film"), f"prompt is a str and completion a NoneType; {KINDS}"),
    ("zephyr", Sample([QUESTION], "very"), f"prompt is a list and completion a str; {KINDS}"),
    (None, Sample("\ud83d", "a"), f"prompt {SURROGATE}"),
    (None, Sample("a", "\ud83d"), f"completion {SURROGATE}"),
    (None, Sample(None), "messages is None, needs a list with role and content in each"),
    ("zephyr", Sample([QUESTION]), "the last message is the user's, needs the assistant's there"),
    ("zephyr", Sample([QUESTION, ANSWER], []), EMPTY),
    ("zephyr", Sample([QUESTION, {**ANSWER, "content": " \n"}]), "message 2 is empty, nothing to learn; drop the row"),
    (
        "llama-2",
        Sample([{"role": "system", "content": "be short"}, QUESTION, ANSWER]),
        "the chat template refuses the conversation: No system message here",
    ),
    (
        NOTHING,
        Sample([QUESTION, ANSWER]),
        "the chat template renders nothing of message 2, nothing to learn; fix data.chat_template",
    ),
    (
        OTHERWISE,
        Sample([QUESTION, ANSWER, QUESTION, ANSWER]),
        "the chat template does not render an assistant's turn as a continuation of the text before it; "
        "set data.completion_only: false",
    ),
    (
        "{{ messages[0].content }}{% if messages | length > 1 %} \n{% endif %}",
        Sample([QUESTION, ANSWER]),
        "no token after the prompt, nothing to learn; drop the row",
    ),
]


def test_malformed_rows_and_rows_with_nothing_to_learn_are_refused_by_number(tokenizer):
    for template, sample, said in REFUSED:
        tokenizer.chat_template = None
        renderer = Renderer(tokenizer, chat_template=TEMPLATES.get(template, template))
        samples = [sample] if template else [Sample("the film", " good"), sample]
        with pytest.raises(DataError) as caught:
            renderer.encode(samples, "a.jsonl", [4, 7][-len(samples) :], completion_only=True)
        assert str(caught.value) == f"a.jsonl, row 7: {said}"


def test_prompts_that_cannot_be_answered_are_refused(tokenizer):
    renderer = Renderer(tokenizer, chat_template=TEMPLATES["zephyr"])
    for prompt, said in (
        ("", "the prompt has no token, nothing to answer; write one"),
        ("\ud83d", f"prompt {SURROGATE}"),
        ([QUESTION, ANSWER], "the last message is the assistant's, needs the user's there"),
    ):
        with pytest.raises(DataError) as caught:
            renderer.encode_prompts(["the film", prompt], "a.jsonl", [4, 7])
        assert str(caught.value) == f"a.jsonl, row 7: {said}"


NO_TEMPLATE = "data.chat_template: the tokenizer has no chat template and the rows are conversations; give one"


def test_templates_and_eos_tokens_that_are_missing_or_not_valid_are_named(tokenizer):
    for call, kind, said in (
        (lambda: encode(Renderer(tokenizer), Sample([QUESTION, ANSWER])), ConfigError, NO_TEMPLATE),
        (lambda: Renderer(tokenizer).encode_prompts([[QUESTION]], "a.jsonl", [7]), ConfigError, NO_TEMPLATE),
        (
            lambda: Renderer(tokenizer, chat_template="{{ messages }}\n{% if %}"),
            ConfigError,
            "data.chat_template: not valid in line 2: Expected an expression, got 'end of statement block'; fix it",
        ),
    ):
        with pytest.raises(kind) as caught:
            call()
        assert str(caught.value) == said
    tokenizer.eos_token = None
    with pytest.raises(DataError) as caught:
        encode(Renderer(tokenizer), Sample("the film", " good"))
    assert str(caught.value) == "data.tokenizer: it has no eos token to end completions with; set eos_token in it"
