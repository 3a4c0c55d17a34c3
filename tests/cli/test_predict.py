"""``peftlit predict``: one text, a file, standard input; JSON lines out, in order."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from peftlit.data.tokenizer import load_tokenizer
from peftlit.export.write import export
from tests.conftest import errors_of
from tests.modules.language_cases import CHAT_TEMPLATE, lora, make_language_module, shake


def answers(out: str) -> list[dict]:
    return [json.loads(line) for line in out.splitlines()]


def is_probable(answer: dict) -> bool:
    """Whether the label is the likeliest, and probabilities are such."""
    assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get)
    return sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_one_text_of_a_copy_of_the_adapter_folder(finished_run, peftlit, tmp_path) -> None:
    shutil.copytree(finished_run[0] / "adapter", tmp_path / "copied")
    out, err = peftlit.ok("predict", "--run_dir=copied", "--text", "a good film")
    (answer,) = answers(out)
    assert answer["row"] == 1
    assert is_probable(answer)
    assert "answered 1 texts" in err


def test_standard_input_in_order_whatever_the_lengths(finished_run, peftlit, monkeypatch) -> None:
    texts = ["good", "a very good film with a superb cast and a fine plot", "bad"] * 5
    arguments = ["predict", "--run_dir", finished_run[0], "--batch_size=4"]
    alone = answers(peftlit.ok(*arguments, "--text", texts[1])[0])[0]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO("\n".join(texts).encode())))
    found = answers(peftlit.ok(*arguments, "--file=-")[0])
    assert [answer["row"] for answer in found] == list(range(1, 16))
    for answer in found[1::3]:
        assert answer["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-2)
    assert len({answer["label"] for answer in found[::3]}) == 1


def test_an_output_file_is_whole_or_not_there(finished_run, peftlit, tmp_path) -> None:
    rows = [json.dumps({"text": "good"})] * 150
    (tmp_path / "in.jsonl").write_text("\n".join(rows), encoding="utf-8")
    arguments = ["predict", "--run_dir", finished_run[0], "--file=in.jsonl", "--output=out.jsonl", "--batch_size=2"]
    code, out, err = peftlit(*arguments)
    assert (code, out) == (0, ""), err
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 150
    (tmp_path / "out.jsonl").unlink()
    (tmp_path / "in.jsonl").write_text("\n".join([*rows, "{"]), encoding="utf-8")  # found out after some answers
    code, _, err = peftlit(*arguments)
    assert code == 1
    assert errors_of(err)[0].startswith("peftlit: error: in.jsonl, line 151: not JSON")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--text=a", "--file=b.txt"], 2, "predict: needs --text or --file, one of the two; usage: peftlit predict"),
        ([], 2, "predict: needs --text or --file, one of the two"),
        (["--text=a", "--batch_size=0"], 2, "--batch_size: got 0, needs 1 or more"),
        (["--text=a", "--batch_sizes=3"], 2, "did you mean '--batch_size'"),
        (["--file=none.csv"], 1, "none.csv: no such file"),
        (["--text=a", "--output=none/out.jsonl"], 2, "--output none/out.jsonl: there is no folder none"),
        (["--text=a", "--output=/proc/out.jsonl"], 2, "--output /proc/out.jsonl: cannot be written"),
        (["--file=chat.jsonl"], 1, "needs a text or a pair of texts"),
        (["--text=a", "--device=gpu"], 2, "device: got 'gpu', which cannot be used here"),
    ],
)
def test_mistakes_cost_one_line(finished_run, peftlit, tmp_path, arguments, code, said) -> None:
    (tmp_path / "chat.jsonl").write_text(json.dumps({"text": [{"role": "user", "content": "good"}]}) + "\n")
    found, out, err = peftlit("predict", "--run_dir", finished_run[0], *arguments)
    (line,) = errors_of(err)
    assert (found, out, said in line) == (code, "", True), line
    assert [path.name for path in tmp_path.iterdir()] == ["chat.jsonl"]


@pytest.mark.parametrize("lost", ["backbone.json", "problem.json"])
def test_half_a_folder_is_refused(finished_run, peftlit, tmp_path, lost) -> None:
    shutil.copytree(finished_run[0] / "adapter", tmp_path / "copied")
    (tmp_path / "copied" / lost).unlink()
    code, _, err = peftlit("predict", "--run_dir=copied", "--text=good")
    assert (code, len(errors_of(err))) == (1, 1)


def language_run(folder: Path, kind: Any, family: str, base: Path, **more: Any) -> Path:
    """The export of a language model, as training would leave it."""
    module = shake(make_language_module(kind, base, lora(family), **more))
    own = load_tokenizer(str(base), max_length=48)
    own.chat_template = CHAT_TEMPLATE if more else None
    export(module, own, folder, {})
    return folder


def test_a_language_model_continues_lines_and_conversations(peftlit, language_folder, tmp_path) -> None:
    run = language_run(tmp_path / "run", "text", "llama", language_folder("llama"), data={"prompt": {"chat": True}})
    chats = [[{"role": "user", "content": text}] for text in ("is it good ?", "a very long film , is it good ?")]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    (tmp_path / "in.txt").write_text("".join(f"{chat[0]['content']}\n" for chat in chats))
    arguments = ["predict", "--run_dir", run, "--max_new_tokens=5", "--device=cpu"]
    out, _ = peftlit.ok(*arguments, "--file=in.jsonl", "--text_column=messages")
    found = answers(out)
    assert [set(answer) for answer in found] == [{"row", "text", "finished"}] * 2
    assert [answer["row"] for answer in found] == [1, 2]
    assert all(answer["finished"] or len(answer["text"].split()) == 5 for answer in found)
    out, _ = peftlit.ok(*arguments, "--file=in.txt", "--batch_size=1")
    assert answers(out) == found  # a line is a user's message
    out, _ = peftlit.ok(*arguments, "--text=is it good ?")
    assert answers(out) == found[:1]
    out, _ = peftlit.ok(*arguments, "--file=in.txt", "--temperature=100")
    assert [answer["text"] for answer in answers(out)] != [answer["text"] for answer in found], "nothing left to chance"


def test_a_classifier_by_likelihood_answers_with_probabilities(peftlit, language_folder, tmp_path) -> None:
    run = language_run(tmp_path / "run", "labels", "gpt2", language_folder("gpt2"))
    (tmp_path / "in.txt").write_text("a good film\nit was awful\n")
    out, _ = peftlit.ok("predict", "--run_dir", run, "--file=in.txt", "--device=cpu")
    assert all(is_probable(answer) for answer in answers(out))


def test_a_masked_language_model_fills_gaps(peftlit, language_folder, tmp_path) -> None:
    run = language_run(tmp_path / "run", "masked", "bert", language_folder("bert"))
    out, _ = peftlit.ok("predict", "--run_dir", run, "--text=a [MASK] film", "--device=cpu")
    (answer,) = answers(out)
    assert answer["text"] == f"a {answer['masks'][0][0]['token']} film"


@pytest.mark.parametrize(
    ("kind", "family", "lines", "said"),
    [
        ("text", "llama", ["good", "film " * 64], "predict, row 2: the prompt has 64 tokens and leaves no room in the"),
        ("masked", "bert", ["a [MASK] film", "good"], "row 2 is 'good', needs a text with [MASK] in it"),
    ],
)
def test_a_prompt_that_cannot_be_answered_is_one_line(
    kind, family, lines, said, peftlit, language_folder, tmp_path
) -> None:
    run = language_run(tmp_path / "run", kind, family, language_folder(family))
    (tmp_path / "in.txt").write_text("".join(f"{line}\n" for line in lines))
    code, out, err = peftlit("predict", "--run_dir", run, "--file=in.txt", "--device=cpu", "--output=out.jsonl")
    (line,) = errors_of(err)
    assert (code, out, said in line) == (1, "", True), line
    assert not (tmp_path / "out.jsonl").exists()
