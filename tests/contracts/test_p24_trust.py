"""P24: a stranger's folder is answered with rightly or refused in one line; nothing in it is unpickled or imported.

What is done is seen by an audit hook in a process of its own, ``watched.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from peftlit.export.write import export
from peftlit.modules.heads import PooledHead
from tests.conftest import errors_of
from tests.contracts import strangers as those
from tests.contracts import watched
from tests.contracts.strangers import ADAPTER, CHECKPOINT, FULL, HEAD, RANDOM, SCORED, STRANGERS, Stranger
from tests.contracts.toy_runs import settings
from tests.modules.cases import NF4, RED, Case, make_module, tokenizer
from tests.tiny import TARGETS

MOST_MIB = 100
"""Memory that these folders may take for a while; what they ask for is far more."""

ROOT = Path(__file__).parents[2]


def find(name: str, kind: str) -> Stranger:
    return next(s for s in STRANGERS if (s.name, s.kind) == (name, kind))


def export_of(kind: str, base: Path, folder: Path) -> None:
    cases = {FULL: Case("bert", "full"), RANDOM: Case("bert", "lora"), HEAD: Case("bert", "none")}
    arguments: dict[str, Any] = {"head": PooledHead(hidden_sizes=[16])} if kind == HEAD else {}
    module = make_module(cases.get(kind, Case("bert", "lora", NF4)), base, **arguments)
    if kind == RANDOM:
        module.backbone.config, module.backbone.name_or_path = str(base), None
    module.configure_model()
    export(module, tokenizer(base), folder / "adapter" if kind == SCORED else folder, {})


SAVING = {"class_path": "ModelCheckpoint", "init_args": {"every_n_train_steps": 2, "save_top_k": -1}}
LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": TARGETS["bert"]}
RUN = {
    "backbone": {"quantization": NF4},
    "adapter": {"class_path": "peft.LoraConfig", "init_args": LORA},  # as that of the exports
    "trainer": {"max_steps": 4, "accumulate_grad_batches": 1, "enable_progress_bar": False, "callbacks": [SAVING]},
}
"""The run that is tested and goes on: four steps, saved after two and four."""


class Scratch:
    """A folder of untouched exports, a run and a checkpoint, and the copies that strangers spoil."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder, self.base = folder, base / "bert"
        self.config = folder / "config.yaml"
        self.config.write_text(yaml.safe_dump(settings(base, RUN)))
        self.copies = 0

    def original(self, kind: str) -> Path:
        folder = self.folder / kind
        if kind == CHECKPOINT:
            (found,) = (self.folder / "first" / "checkpoints").glob("*step=2.ckpt")
            return found
        if not folder.exists():
            export_of(kind, self.base, folder)
            if kind == SCORED:
                (folder / "metrics.json").write_text("{}")
        return folder

    def job(self, stranger: Stranger, breaker: str | None = None) -> list[Any]:
        """Copy and spoil a folder; return what is to be run on it."""
        self.copies += 1
        folder = self.folder / f"{self.copies}"
        run = self.folder / f"{self.copies}.run" if stranger.kind == CHECKPOINT else folder
        shutil.copytree(self.original(stranger.kind), folder)
        stranger.spoil(folder)
        arguments = ["predict", f"--run_dir={folder}", "--text=a great film", "--device=cpu"]
        if stranger.kind in (SCORED, CHECKPOINT):
            command = ["test"] if stranger.kind == SCORED else ["fit", f"--ckpt_path={folder}"]
            arguments = [*command, f"--config={self.config}", f"--run_dir={run}"]
        pattern = "checkpoints/*/tensors-*" if stranger.kind == CHECKPOINT else "predictions.csv"
        return [arguments, str(folder), [str(run), pattern], breaker]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory, base) -> Scratch:
    return Scratch(tmp_path_factory.mktemp("strangers"), base)


def results(scratch: Scratch, wanted: list[tuple[str | None, Stranger]]) -> dict[tuple[str | None, str, str], Any]:
    """What came of strangers, and of a guard that is taken away for some; by breaker, kind and name."""
    if not (scratch.folder / "first").exists():
        first = ["fit", f"--config={scratch.config}", f"--run_dir={scratch.folder / 'first'}"]
        assert watched.answer(first, str(scratch.folder), [str(scratch.folder), "none"])["code"] == 0
    warm = [find("untouched", kind) for kind in (ADAPTER, SCORED, CHECKPOINT)]  # what libraries load at their first use
    wanted = [*((None, stranger) for stranger in warm), *wanted]
    jobs = [scratch.job(stranger, breaker) for breaker, stranger in wanted]
    keys = [(breaker, stranger.kind, stranger.name) for breaker, stranger in wanted]
    (scratch.folder / "jobs.json").write_text(json.dumps(jobs))
    path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    caches = {"HF_MODULES_CACHE": str(scratch.folder / "modules"), "HF_HUB_CACHE": str(scratch.folder / those.HUB)}
    environment = {**os.environ, "PYTHONPATH": path, **caches}
    command = [sys.executable, "-m", "tests.contracts.watched", "jobs.json"]
    run = subprocess.run(command, cwd=scratch.folder, capture_output=True, text=True, env=environment, check=False)
    lines = run.stdout.splitlines()
    assert len(lines) == len(jobs), (keys[len(lines)], run.stderr[-2000:])
    return dict(zip(keys, map(json.loads, lines), strict=True))


def contract_trust(result: dict[str, Any], untouched: dict[str, Any], said: str | None) -> None:
    """Nothing is unpickled or imported, memory is bounded, and the answer is the right one, or one line of refusal."""
    assert not result["done"]
    assert result["grown"] < MOST_MIB, f"{result['grown']} MiB"
    assert "Traceback" not in result["err"]
    if said is None:
        assert result["code"] == 0, result["err"]
        assert result["answer"] == untouched["answer"]
        assert not errors_of(result["err"])
    else:
        assert result["code"] != 0, "answered"
        assert result["code"] in (1, 2)
        (line,) = errors_of(result["err"])
        assert result["err"].splitlines()[-1] == line
        assert said in line


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [those.EXPORTS, (SCORED, CHECKPOINT)], ids=["an export", "a run"])
def test_p24_a_strangers_folder_is_answered_with_or_refused(scratch, kinds) -> None:
    strangers = [stranger for stranger in STRANGERS if stranger.kind in kinds]
    found = results(scratch, [(None, stranger) for stranger in strangers])
    for stranger in strangers:
        untouched = found[None, stranger.kind, "untouched"]
        try:
            contract_trust(found[None, stranger.kind, stranger.name], untouched, stranger.said)
        except AssertionError as error:
            raise AssertionError(f"{stranger.kind}: {stranger.name}: {error}") from error


@pytest.fixture(scope="module")
def broken(scratch: Scratch) -> dict[tuple[str | None, str, str], Any]:
    """What came of one stranger for each guard that is taken away."""
    untouched = [(None, find("untouched", HEAD))]
    return results(scratch, [*untouched, *((b, find(name, kind)) for b, (name, kind, _) in those.BROKEN.items())])


@pytest.mark.slow
@pytest.mark.parametrize("breaker", those.BROKEN)
def test_p24_goes_red_without_the_guard(broken, breaker) -> None:
    name, kind, seen = those.BROKEN[breaker]
    with pytest.raises(RED, match=seen):
        contract_trust(broken[breaker, kind, name], broken[None, kind, "untouched"], find(name, kind).said)


def test_p24_every_line_of_the_page_names_strangers_that_there_are() -> None:
    rows = [line.split("|") for line in (ROOT / "docs/trust.md").read_text().splitlines() if line.startswith("| ")]
    named = {name.strip() for row in rows[1:] for name in row[3].split(";")}
    assert len(rows) > 10
    assert named <= {stranger.name for stranger in STRANGERS}


@pytest.mark.parametrize(("name", "kind"), those.FAST)
def test_p24_one_of_each_sort_is_answered_with_or_refused(scratch, name, kind) -> None:
    untouched, spoiled = (watched.answer(*scratch.job(find(stranger, kind))) for stranger in ("untouched", name))
    contract_trust(spoiled, untouched, find(name, kind).said)
