"""What makes a tweet classifier out of a language model score like one that always gives the same answer.

A card reports a macro-F1 of 0.21 for a chat model that was trained on conversations and asked for one word. This trains
a small model in the same way, mends one cause after another, and writes what each gains:

    python -m tools.card_002 --data_dir FOLDER --model FOLDER [--train_rows 8000] [--epochs 1] [--seeds 42 43 44]
        [--test_rows 2000] [--ways a b] [--lr 3e-3] [--gradient_clip_val 1.0] [--out page.md]

``--rows OUT`` writes the tweets as conversations instead, as configs/recipes/as_run/tinyllama-tweets-qlora.yaml learns.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from sklearn.metrics import accuracy_score, f1_score

SPLITS = ("train", "validation", "test")
NAMES = ("negative", "neutral", "positive")
SYSTEM = "Say the sentiment of the tweet in one word: negative, neutral or positive."
QUESTION = " It was"
WORDS = ("sad", "okay", "happy")
"""What the model says for each label, as its stories have these words."""
ELSE = 1
"""The label that an answer without any of the words counts as: neutral."""
LENGTH = 256

Row = dict[str, Any]


class Outcome(NamedTuple):
    """What one way to train and to score came to."""

    f1: float
    accuracy: float
    parsed: float | None
    """Share of the answers that hold a word, where answers are generated."""


def read(file: Path, most: int | None = None) -> list[Row]:
    """Read the rows of a split, or the first of them."""
    lines = [line for line in file.read_text(encoding="utf-8").split("\n") if line]
    return [json.loads(line) for line in lines[:most]]


def write(file: Path, rows: list[Row]) -> str:
    """Write rows, and return where."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def as_completion(row: Row) -> Row:
    """Put a tweet as a prompt, and its label as what follows."""
    return {"prompt": row["text"] + QUESTION, "completion": f" {WORDS[row['label']]}"}


def as_conversation(row: Row) -> Row:
    """Put a tweet and its label as a conversation with a system message."""
    told = (("system", SYSTEM), ("user", row["text"]), ("assistant", NAMES[row["label"]]))
    return {"messages": [{"role": role, "content": content} for role, content in told]}


def parse(answer: str) -> int | None:
    """Find the label whose word an answer begins with, None where there is none."""
    word = re.match(r"\W*(\w+)", answer)
    return WORDS.index(word[1].lower()) if word and word[1].lower() in WORDS else None


def scored(true: list[int], predicted: list[int], parsed: float | None = None) -> Outcome:
    """Score answers."""
    f1 = f1_score(true, predicted, labels=range(len(NAMES)), average="macro", zero_division=0)
    return Outcome(float(f1), float(accuracy_score(true, predicted)), parsed)


class Trial:
    """One seed's runs on the same rows.

    Args:
        folder: Where runs go.
        model: Folder of the language model.
        rows: The rows by split.
        epochs: How often the training rows are seen.
        seed: Seed of the runs.
        lr: Learning rate.
        gradient_clip_val: Largest norm of a gradient; None = not clipped.
    """

    def __init__(
        self,
        folder: Path,
        model: Path,
        rows: dict[str, list[Row]],
        epochs: int,
        seed: int,
        lr: float = 3e-3,
        gradient_clip_val: float | None = None,
    ) -> None:
        self.folder = folder
        self.model = model
        self.rows = rows
        self.epochs = epochs
        self.seed = seed
        self.lr = lr
        self.gradient_clip_val = gradient_clip_val

    def generated(self, *, completion_only: bool) -> Outcome:
        """Learn prompts with their completions; generate answers and parse them."""
        kind = "completion" if completion_only else "whole"
        files = {s: write(self.folder / f"{s}_completions.jsonl", [*map(as_completion, self.rows[s])]) for s in SPLITS}
        data = {f"{split}_file": file for split, file in files.items()}
        answerer = self._fit(f"{kind}", "ChatFiles", {**data, "completion_only": completion_only}).load()
        answerer.max_new_tokens = 8  # type: ignore[attr-defined]  # it continues texts
        prompts = [as_completion(row)["prompt"] for row in self.rows["test"]]
        found = [parse(answer["text"]) for answer in answerer.predict(prompts, batch_size=64)]
        parsed = sum(label is not None for label in found) / len(found)
        true = [row["label"] for row in self.rows["test"]]
        return scored(true, [ELSE if label is None else label for label in found], parsed)

    def by_likelihood(self, label_loss: str = "restricted", *, train: bool = True) -> Outcome:
        """Learn labels, or nothing; score each label by its likelihood."""
        for split in SPLITS:
            write(self.folder / f"{split}.jsonl", self.rows[split])
        words = [f" {word}" for word in WORDS]
        options = {"data_dir": str(self.folder), "prompt": {"template": "{text}" + QUESTION, "label_words": words}}
        name = f"likelihood_{label_loss}" if train else "likelihood_untrained"
        metrics = self._fit(name, "TweetSentiment", options, label_loss=label_loss, train=train).metrics["test"]
        return Outcome(metrics["f1"], metrics["accuracy"], None)

    def _fit(self, name: str, kind: str, options: Row, label_loss: str = "restricted", *, train: bool = True) -> Any:
        import peftlit

        linear = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
        model = {
            "backbone": {"name_or_path": str(self.model)},
            "adapter": {"class_path": "peft.LoraConfig", "init_args": linear},
            "label_loss": label_loss,
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": self.lr, "weight_decay": 0.0}},
            "scheduler": {"class_path": "LinearWarmup", "init_args": {"warmup_ratio": 0.05}},
        }
        options = {**options, "batch_size": 16, "eval_batch_size": 64, "max_length": LENGTH}
        trainer = {"precision": "32-true", "accelerator": "cpu", "enable_progress_bar": False}
        trainer |= {"gradient_clip_val": self.gradient_clip_val}
        trainer |= {"max_epochs": self.epochs} if train else {"max_steps": 0}
        return peftlit.fit(
            {
                "seed_everything": self.seed,
                "model": {"class_path": "CausalLM", "init_args": model},
                "data": {"class_path": kind, "init_args": options},
                "trainer": trainer,
            },
            run_dir=self.folder / name,
        )


WAYS: dict[str, Callable[[Trial], Outcome]] = {
    "(a) loss on the whole sequence; answers generated and parsed": lambda t: t.generated(completion_only=False),
    "(b) loss on the answer alone; answers generated and parsed": lambda t: t.generated(completion_only=True),
    "(b2) loss on the answer among all words; labels scored by likelihood": lambda t: t.by_likelihood("completion"),
    "(c) not trained; labels scored by likelihood": lambda t: t.by_likelihood(train=False),
    "(d) loss on the answer among the labels; labels scored by likelihood": lambda t: t.by_likelihood("restricted"),
}
"""From what the card does to what peftlit does."""


def _letter(way: str) -> str:
    return way[1 : way.index(")")]


def table(outcomes: dict[str, list[Outcome]]) -> str:
    """Write a line for each way: means over the seeds, and the range of the macro-F1."""
    lines = ["| way | macro-F1 | lowest to highest | accuracy | answers that parse |", "|---|---|---|---|---|"]
    for way, found in outcomes.items():
        f1 = [one.f1 for one in found]
        parsed = [one.parsed for one in found if one.parsed is not None]
        share = f"{100 * statistics.mean(parsed):.1f} %" if parsed else "-"
        accuracy = statistics.mean(one.accuracy for one in found)
        lines.append(
            f"| {way} | {statistics.mean(f1):.4f} | {min(f1):.4f} to {max(f1):.4f} | {accuracy:.4f} | {share} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Print the table, or write conversations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="folder with train, validation, test .jsonl")
    parser.add_argument("--model", type=Path, help="folder of the language model")
    parser.add_argument("--train_rows", type=int, default=8000)
    parser.add_argument("--test_rows", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--ways", nargs="+", choices=[_letter(way) for way in WAYS], help="default: all of them")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--gradient_clip_val", type=float)
    parser.add_argument("--rows", type=Path, help="folder to write conversations to; nothing is trained then")
    parser.add_argument("--out", type=Path, help="page to write the table to")
    arguments = parser.parse_args()
    if arguments.rows is not None:
        arguments.rows.mkdir(parents=True, exist_ok=True)
        for split in SPLITS:
            rows = [as_conversation(row) for row in read(arguments.data_dir / f"{split}.jsonl")]
            print(write(arguments.rows / f"{split}.jsonl", rows))
        return 0
    if arguments.model is None:
        parser.error("--model: name the folder of a causal language model")
    from peftlit.cli import console

    console.set_up(logging.WARNING)
    most = {"train": arguments.train_rows, "validation": 200, "test": arguments.test_rows}
    rows = {split: read(arguments.data_dir / f"{split}.jsonl", most[split]) for split in SPLITS}
    true = [row["label"] for row in rows["test"]]
    outcomes = {"always the same answer, neutral": [scored(true, [ELSE] * len(true))]}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in arguments.seeds:
            folder = Path(scratch, str(seed))
            folder.mkdir()
            trial = Trial(
                folder, arguments.model, rows, arguments.epochs, seed, arguments.lr, arguments.gradient_clip_val
            )
            for way, run in WAYS.items():
                if arguments.ways and _letter(way) not in arguments.ways:
                    continue
                outcomes.setdefault(way, []).append(run(trial))
                print(f"seed {seed}: {way}: {outcomes[way][-1]}", flush=True)
    page = table(outcomes)
    print(page)
    if arguments.out is not None:
        arguments.out.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
