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


def test_one_text(finished_run, peftlit) -> None:
    code, out, err = peftlit("predict", "--run_dir", finished_run[0], "--text", "a good film")
    assert code == 0, err
    (answer,) = answers(out)
    assert answer["row"] == 1
    assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get)
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert "answered 1 texts" in err


def test_standard_input_in_order_whatever_the_lengths(finished_run, peftlit, monkeypatch) -> None:
    texts = ["good", "a very good film with a superb cast and a fine plot", "bad"] * 5
    code, out, _ = peftlit("predict", "--run_dir", finished_run[0], "--text", texts[1], "--batch_size=4")
    assert code == 0
    alone = answers(out)[0]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO("\n".join(texts).encode())))
    code, out, err = peftlit("predict", "--run_dir", finished_run[0], "--file=-", "--batch_size=4")
    assert code == 0, err
    found = answers(out)
    assert [answer["row"] for answer in found] == list(range(1, 16))
    for row in (2, 5, 8, 11, 14):
        assert found[row - 1]["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-2)
    assert len({json.dumps(found[row]["label"]) for row in (0, 3, 6)}) == 1


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


def test_a_copy_of_the_adapter_folder_is_enough(finished_run, peftlit, tmp_path) -> None:
    shutil.copytree(finished_run[0] / "adapter", tmp_path / "copied")
    code, out, err = peftlit("predict", "--run_dir=copied", "--text=good")
    assert code == 0, err
    assert answers(out)[0]["label"] in ("negative", "positive")


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
        (["--text=a", "--device=gpu"], 2, "device: got 'gpu', which cannot be used here"),
    ],
)
def test_mistakes_cost_one_line(finished_run, peftlit, tmp_path, arguments, code, said) -> None:
    found, out, err = peftlit("predict", "--run_dir", finished_run[0], *arguments)
    assert (found, out) == (code, "")
    assert len(errors_of(err)) == 1
    assert said in errors_of(err)[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lost", ["backbone.json", "problem.json"])
def test_half_a_folder_is_refused(finished_run, peftlit, tmp_path, lost) -> None:
    shutil.copytree(finished_run[0] / "adapter", tmp_path / "copied")
    Path(tmp_path, "copied", lost).unlink()
    code, _, err = peftlit("predict", "--run_dir=copied", "--text=good")
    assert code == 1
    assert len(errors_of(err)) == 1


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
    code, out, err = peftlit(*arguments, "--file=in.jsonl", "--text_column=messages")
    assert code == 0, err
    found = answers(out)
    assert [set(answer) for answer in found] == [{"row", "text", "finished"}] * 2
    assert [answer["row"] for answer in found] == [1, 2]
    assert all(answer["finished"] or len(answer["text"].split()) == 5 for answer in found)
    code, out, err = peftlit(*arguments, "--file=in.txt", "--batch_size=1")
    assert code == 0, err
    assert answers(out) == found  # a line is a user's message
    code, out, _ = peftlit(*arguments, "--text=is it good ?")
    assert answers(out) == found[:1]
    code, out, _ = peftlit(*arguments, "--file=in.txt", "--temperature=100")
    assert [answer["text"] for answer in answers(out)] != [answer["text"] for answer in found], "nothing left to chance"


def test_a_classifier_by_likelihood_answers_with_probabilities(peftlit, language_folder, tmp_path) -> None:
    run = language_run(tmp_path / "run", "labels", "gpt2", language_folder("gpt2"))
    (tmp_path / "in.txt").write_text("a good film\nit was awful\n")
    code, out, err = peftlit("predict", "--run_dir", run, "--file=in.txt", "--device=cpu")
    assert code == 0, err
    for answer in answers(out):
        assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get)
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-6)


def test_a_masked_language_model_fills_gaps(peftlit, language_folder, tmp_path) -> None:
    run = language_run(tmp_path / "run", "masked", "bert", language_folder("bert"))
    code, out, err = peftlit("predict", "--run_dir", run, "--text=a [MASK] film", "--device=cpu")
    assert code == 0, err
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
    assert (code, out) == (1, "")
    assert len(errors_of(err)) == 1
    assert said in errors_of(err)[0]
    assert not (tmp_path / "out.jsonl").exists()


def test_a_conversation_is_refused_where_texts_are_asked_for(finished_run, peftlit, tmp_path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": [{"role": "user", "content": "good"}]}) + "\n")
    code, _, err = peftlit("predict", "--run_dir", finished_run[0], "--file=in.jsonl")
    assert code == 1
    assert "needs a text or a pair of texts" in errors_of(err)[0]
