"""What is not what it was when a run goes on: its checkpoints, its data, its base; and what happens beside it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tests.contracts import toy_runs as toy
from tests.contracts.file_operations import watch
from tests.forked import Outcome, peftlit_in

from peftlit.plugins import AdapterCheckpointIO
from tools.faults.stage import RESUME, Stage, Tried, files

_AFTER_FOUR_SAVES = 50
_BITS = 12


def _begun(stage: Stage, kind: str, tried: Tried) -> Path:
    """Return the folder of a run that was killed after some saves."""
    folder = stage.fresh(tried.fault, kind)
    stage.attempt(folder, prepare=partial(watch, Path("run/checkpoints"), folder / "log.txt", _AFTER_FOUR_SAVES))
    return folder


def _on(name: str, change: Callable[[Path, float], None], how: float) -> Callable[[Path], None]:
    return lambda checkpoint: change(checkpoint / name, how)


def _flip(file: Path, seed: float) -> None:
    content, seeded = bytearray(file.read_bytes()), random.Random(seed)
    bit = seeded.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def _cut(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: min(int(len(content) * share), len(content) - 1)])


def checkpoints(stage: Stage, kind: str) -> Tried:
    """Go on from a checkpoint that was cut, emptied, changed by a bit, or is none.

    Args:
        stage: The stage.
        kind: Name of the kind of run.
    """
    tried = Tried(f"truncated, zero-length, bit-flipped and foreign checkpoints: {kind}")
    folder = _begun(stage, kind, tried)
    (good, *_) = sorted(folder.glob("run/checkpoints/[!.]*.ckpt"))
    tree, tensors = "checkpoint.json", next(good.glob("*.safetensors")).name
    damages: list[Callable[[Path], object]] = [
        *[_on(file, _cut, share) for file in (tree, tensors) for share in (0, 0.01, 0.5, 1)],
        *[_on(file, _flip, seed) for file in (tree, tensors) for seed in range(_BITS)],
        lambda c: (c / tree).unlink(),
        lambda c: (c / tensors).unlink(),
        lambda c: (c / tensors).write_bytes(random.Random(0).randbytes(1 << 16)),
        lambda c: (c / tree).write_text(json.dumps({"format_version": 1})),
        _as_lightning_writes_it,
        _of_another_run,
    ]
    bad = folder / "run/checkpoints/bad.ckpt"
    for damage in damages:
        shutil.copytree(good, bad)
        damage(bad)
        before = files(folder / "run")
        outcome = peftlit_in(folder, *toy.FIT, f"--ckpt_path={bad.relative_to(folder)}")
        stage.expect_one_line(outcome, "bad.ckpt", tried)
        if files(folder / "run") != before:
            tried.wrong.append("files changed")
        shutil.rmtree(bad) if bad.is_dir() else bad.unlink()
    stage.finish(folder, kind, tried)
    tried.came = "refused in one line, nothing written; from a good one, the same result"
    return tried


def _as_lightning_writes_it(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    torch.save({"state_dict": {}, "epoch": 1}, checkpoint)


def _of_another_run(checkpoint: Path) -> None:
    """Change a setting, and all digests with it."""
    content = AdapterCheckpointIO().load_checkpoint(checkpoint)
    content["peftlit"]["settings"]["seed_everything"] = 1
    AdapterCheckpointIO().save_checkpoint(content, checkpoint)


def data(stage: Stage, kind: str) -> Tried:
    """Change a label, a text, the order, and the number of rows between two attempts.

    Args:
        stage: The stage.
        kind: Name of the kind of run.
    """
    tried = Tried(f"data changed between runs: {kind}")
    folder = _begun(stage, kind, tried)
    rows = (stage.base / "train.jsonl").read_text().splitlines(keepends=True)
    other = {
        "a label": [rows[0].replace('"label": 0', '"label": 2').replace('"label": 1', '"label": 0').replace("2", "1")],
        "a text": [rows[0].replace('"text": "', '"text": "oh ')],
        "the order": [rows[1], rows[0]],
        "a row less": [],
    }
    for name, first in other.items():
        changed = folder / name
        shutil.copytree(stage.base, changed, ignore=shutil.ignore_patterns("bert"))
        (changed / "train.jsonl").write_text("".join([*first, *rows[max(len(first), 1) :]]))
        outcome = stage.attempt(folder, f"--data.data_dir={changed}")
        stage.expect_one_line(outcome, "the data has changed since the run began (", tried)
    shutil.copytree(stage.base, folder / "moved", ignore=shutil.ignore_patterns("bert"))
    stage.judge(stage.attempt(folder, f"--data.data_dir={folder / 'moved'}"), folder, kind, tried)
    tried.came += "; the same rows in another place: the same result"
    return tried


def base(stage: Stage, kind: str) -> Tried:
    """Take the base away, change a bit of its weights, put other weights there.

    Args:
        stage: The stage.
        kind: Name of the kind of run.
    """
    tried = Tried(f"a missing or changed base at resume: {kind}")
    folder = stage.fresh(tried.fault, kind)
    bert = folder / "bert"
    shutil.copytree(stage.base / "bert", bert)
    config = (folder / "config.yaml").read_text().replace(str(stage.base / "bert"), str(bert))
    (folder / "config.yaml").write_text(config)
    stage.attempt(folder, prepare=partial(watch, Path("run/checkpoints"), folder / "log.txt", _AFTER_FOUR_SAVES))
    for change, says in (
        (shutil.rmtree, "cannot read a model from"),
        (_other_bits, "sha256"),
        (_other_weights, "sha256"),
    ):
        change(bert)
        stage.expect_one_line(stage.attempt(folder), says, tried)
        shutil.rmtree(bert, ignore_errors=True)
        shutil.copytree(stage.base / "bert", bert)
    stage.finish(folder, kind, tried)
    tried.came += "; with the base put back, the same result"
    return tried


def _other_bits(bert: Path) -> None:
    file = bert / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def _other_weights(bert: Path) -> None:
    weights = load_file(bert / "model.safetensors")
    save_file({name: 2 * weight for name, weight in weights.items()}, bert / "model.safetensors")


def two_runs(stage: Stage, kind: str) -> Tried:
    """While a run trains, begin another one in its folder, and try to go on with it.

    Args:
        stage: The stage.
        kind: Name of the kind of run.
    """
    tried = Tried(f"two runs in one folder: {kind}")
    folder, beside = stage.fresh(tried.fault, kind), stage.fresh(f"{tried.fault} second", kind)
    others: list[Outcome] = []

    def watch_and_disturb(child: int, age: float) -> None:
        if not others and any(folder.glob("run/checkpoints/[!.]*.ckpt/checkpoint.json")):
            os.kill(child, signal.SIGSTOP)  # it must not be done before the others are
            others.extend(
                peftlit_in(beside, *toy.FIT[:-1], f"--run_dir={folder / 'run'}", *more) for more in ((), (RESUME,))
            )
            os.kill(child, signal.SIGCONT)

    outcome = stage.attempt(folder, watch=watch_and_disturb)
    for other in others:
        stage.expect_one_line(other, "", tried)
    stage.judge(outcome, folder, kind, tried)
    tried.came += "; the first one ends with the same result"
    return tried


def worker(stage: Stage, kind: str) -> Tried:
    """Kill a process that loads batches.

    Args:
        stage: The stage.
        kind: Name of a kind of run that has some.
    """
    tried = Tried(f"a killed loader worker: {kind}")
    folder = stage.fresh(tried.fault, kind)
    killed: list[int] = []

    def kill_a_worker(child: int, age: float) -> None:
        if killed or not any(folder.glob("run/checkpoints/[!.]*.ckpt/checkpoint.json")):
            return
        killed.extend(int(number) for number in Path(f"/proc/{child}/task/{child}/children").read_text().split()[:1])
        for number in killed:
            os.kill(number, signal.SIGKILL)

    stage.expect_one_line(stage.attempt(folder, watch=kill_a_worker), "worker", tried)
    stage.finish(folder, kind, tried)
    tried.came += "; resumed, the same result"
    return tried
