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
    for completion in (" very good", " very good</s>", " very good</s></s>"):
        encoded = encode(Renderer(tokenizer), Sample("the film", completion))
        assert encoded.input_ids == [the, film, very, good, END]
        assert encoded.labels == [IGNORE_INDEX, IGNORE_INDEX, very, good, END]


def test_the_end_is_learned_where_padding_is_the_same_token(tokenizer):
    tokenizer.pad_token = tokenizer.eos_token
    assert encode(Renderer(tokenizer), Sample("the film", " very")).labels[-1] == END


def test_special_tokens_in_front_stay_and_those_behind_do_not(tmp_path):
    tokenizer = tiny.write_tokenizer(tmp_path)  # [CLS] $A [SEP]
    tokenizer.eos_token = "[SEP]"
    renderer = Renderer(tokenizer)
    assert renderer.prefix == [tokenizer.cls_token_id]
    encoded = encode(renderer, Sample("the film", " good"))
    assert encoded.input_ids == tokenizer("the film good")["input_ids"]
    assert renderer.encode_prompts(["the film"], "a.jsonl", [1])[0] == tokenizer("the film")["input_ids"][:-1]


def test_real_tokens_of_a_prompt_and_its_completion(shared):
    encoded = encode(Renderer(stories(shared)), Sample("a cat", " sat"))
    assert encoded.input_ids == [1, 261, 280, 294, 262, 294, 2]  # <s> ▁a ▁c at ▁s at </s>
    assert encoded.labels == [IGNORE_INDEX] * 4 + [262, 294, 2]


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
    assert plain.labels[4:] == [262, 294, 2]


def test_every_token_but_the_first_is_learned_on_demand(tokenizer):
    texts = encode(Renderer(tokenizer), Sample("the film", " very"), completion_only=False)
    assert texts.labels == [IGNORE_INDEX, *texts.input_ids[1:]]
    renderer = Renderer(tokenizer, chat_template=TEMPLATES["zephyr"])
    chat = encode(renderer, Sample([QUESTION, ANSWER]), completion_only=False)
    assert chat.labels == [IGNORE_INDEX, *chat.input_ids[1:]]
    assert chat.input_ids == encode(renderer, Sample([QUESTION, ANSWER])).input_ids


def test_every_assistants_turn_of_a_conversation_is_learned(tokenizer):
    renderer = Renderer(tokenizer, chat_template=TEMPLATES["zephyr"])
    second = {"role": "assistant", "content": "the plot"}
    encoded = encode(renderer, Sample([QUESTION, ANSWER, QUESTION, second]))
    assert learned(encoded) == [*ids(tokenizer, "very good"), END, *ids(tokenizer, "the plot"), END]
    asked = ids(tokenizer, "<|user|>\nfilm good ?</s>\n<|assistant|>\n")
    answered = [*ids(tokenizer, "very good"), END]
    assert encoded.labels[: len(asked) + 3] == [IGNORE_INDEX] * len(asked) + answered


def test_of_a_prompt_and_a_completion_of_messages_the_prompts_turns_are_not_learned(tokenizer):
    renderer = Renderer(tokenizer, chat_template=TEMPLATES["zephyr"])
    second, third = {"role": "assistant", "content": "the plot"}, {"role": "assistant", "content": "a story"}
    encoded = encode(renderer, Sample([QUESTION, ANSWER, QUESTION], [second]))
    assert encoded.input_ids == encode(renderer, Sample([QUESTION, ANSWER, QUESTION, second])).input_ids
    assert learned(encoded) == [*ids(tokenizer, "the plot"), END]
    longer = encode(renderer, Sample([QUESTION, ANSWER, QUESTION], [second, QUESTION, third]))
    assert learned(longer) == [*ids(tokenizer, "the plot"), END, *ids(tokenizer, "a story"), END]


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


def test_predict_feeds_what_the_template_announces(tokenizer):
    renderer = Renderer(tokenizer, chat_template=TEMPLATES["zephyr"])
    assert renderer.encode_prompts([[QUESTION], "the film"], "a.jsonl", [1, 2]) == [
        ids(tokenizer, "<|user|>\nfilm good ?</s>\n<|assistant|>\n"),
        ids(tokenizer, "the film"),
    ]


def test_the_template_is_saved_with_the_tokenizer(tokenizer, tmp_path):
    Renderer(tokenizer, chat_template=TEMPLATES["chatml"])
    tokenizer.save_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").chat_template == TEMPLATES["chatml"]


def test_no_rows_are_no_tokens(tokenizer):
    assert Renderer(tokenizer).encode([], "a.jsonl", [], completion_only=True) == []
    assert Renderer(tokenizer).encode_prompts([], "a.jsonl", []) == []


NOTHING = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
OTHERWISE = (
    "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' and loop.last %} !{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "sample", "said"),
    [
        (None, Sample("the film", ""), "the completion is empty, nothing to learn; drop the row"),
        (None, Sample("the film", "</s>"), "the completion is empty, nothing to learn; drop the row"),
        (None, Sample("the film", 3), "prompt is a str and completion a int; needs two texts or two lists of messages"),
        (
            None,
            Sample("the film"),
            "prompt is a str and completion a NoneType; needs two texts or two lists of messages",
        ),
        (
            "zephyr",
            Sample([QUESTION], "very"),
            "prompt is a list and completion a str; needs two texts or two lists of messages",
        ),
        (None, Sample("\ud83d", "a"), "prompt holds half of a surrogate pair, which is no UTF-8"),
        (None, Sample("a", "\ud83d"), "completion holds half of a surrogate pair, which is no UTF-8"),
        (None, Sample(None), "messages is None, needs a list with role and content in each"),
        ("zephyr", Sample([QUESTION]), "the last message is the user's, needs the assistant's there"),
        (
            "zephyr",
            Sample([QUESTION, ANSWER], []),
            "the completion is empty, nothing to learn; drop the row",
        ),
        (
            "zephyr",
            Sample([QUESTION, {**ANSWER, "content": " \n"}]),
            "message 2 is empty, nothing to learn; drop the row",
        ),
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
            "the chat template does not render an assistant's turn as a continuation of the text "
            "before it; set data.completion_only: false",
        ),
        (
            "{{ messages[0].content }}{% if messages | length > 1 %} \n{% endif %}",
            Sample([QUESTION, ANSWER]),
            "no token after the prompt, nothing to learn; drop the row",
        ),
    ],
)
def test_rows_with_nothing_to_learn_and_rows_out_of_order_are_refused_by_number(tokenizer, template, sample, said):
    renderer = Renderer(tokenizer, chat_template=TEMPLATES.get(template, template))
    with pytest.raises(DataError) as caught:
        encode(renderer, sample)
    assert str(caught.value) == f"a.jsonl, row 7: {said}"


def test_a_template_without_clear_turns_serves_where_all_is_learned(tokenizer):
    renderer = Renderer(tokenizer, chat_template=OTHERWISE.replace("m.content", "loop.length ~ m.content"))
    encoded = encode(renderer, Sample([QUESTION, ANSWER, QUESTION, ANSWER]), completion_only=False)
    assert encoded.labels == [IGNORE_INDEX, *encoded.input_ids[1:]]


def test_the_row_at_fault_is_named_among_others(tokenizer):
    samples = [Sample("the film", " good"), Sample("the film", "")]
    with pytest.raises(DataError, match=r"^a\.jsonl, row 9: the completion is empty"):
        Renderer(tokenizer).encode(samples, "a.jsonl", [4, 9], completion_only=True)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("", "the prompt has no token, nothing to answer; write one"),
        ("\ud83d", "prompt holds half of a surrogate pair, which is no UTF-8"),
        ([QUESTION, ANSWER], "the last message is the assistant's, needs the user's there"),
    ],
)
def test_prompts_that_cannot_be_answered_are_refused(tokenizer, prompt, said):
    renderer = Renderer(tokenizer, chat_template=TEMPLATES["zephyr"])
    with pytest.raises(DataError) as caught:
        renderer.encode_prompts([prompt], "a.jsonl", [7])
    assert str(caught.value) == f"a.jsonl, row 7: {said}"


def test_an_empty_prompt_can_be_answered_where_a_token_starts_every_text(shared):
    assert Renderer(stories(shared)).encode_prompts([""], "a.jsonl", [1]) == [[1]]


@pytest.mark.parametrize(
    "call",
    [
        lambda renderer: encode(renderer, Sample([QUESTION, ANSWER])),
        lambda renderer: renderer.encode_prompts([[QUESTION]], "a.jsonl", [7]),
    ],
)
def test_conversations_need_a_template(tokenizer, call):
    with pytest.raises(ConfigError) as caught:
        call(Renderer(tokenizer))
    assert str(caught.value) == (
        "data.chat_template: the tokenizer has no chat template and the rows are conversations; give one"
    )


def test_a_template_that_is_no_jinja_is_refused_at_once(tokenizer):
    with pytest.raises(ConfigError) as caught:
        Renderer(tokenizer, chat_template="{{ messages }}\n{% if %}")
    assert str(caught.value) == (
        "data.chat_template: not valid in line 2: Expected an expression, got 'end of statement block'; fix it"
    )


def test_completions_need_an_end_token(tokenizer):
    tokenizer.eos_token = None
    with pytest.raises(DataError) as caught:
        encode(Renderer(tokenizer), Sample("the film", " good"))
    assert str(caught.value) == ("data.tokenizer: it has no eos token to end completions with; set eos_token in it")
