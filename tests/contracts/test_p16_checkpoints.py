"""P16: a kill at any operation on a checkpoint's files leaves the last good one; what was changed since is refused."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from peftlit.checkpoint import format as checkpoint_io
from peftlit.errors import CheckpointError
from peftlit.plugins import AdapterCheckpointIO, PagedAdamW8bit
from peftlit.run.folder import RunFolder
from tests.contracts.file_operations import in_child, was_killed, watch
from tests.modules.cases import Case, fit, make_module

OLD, NEW = (
    {"weights": torch.full((100,), value), "step": int(value), "global_step": int(value), "optimizer_states": []}
    for value in (1.0, 2.0)
)
IO = AdapterCheckpointIO()


ACTIONS = {
    "save beside": ["save new"],
    "replace": ["save old"],
    "replace after a kill": ["save old"],
    "save and remove": ["save new", "remove old"],
    "remove the newest": ["remove new"],
}


def act(checkpoints: Path, action: str) -> None:
    for step in ACTIONS[action]:
        verb, name = step.split()
        if verb == "save":
            IO.save_checkpoint(NEW, checkpoints / f"{name}.ckpt")
        else:
            IO.remove_checkpoint(checkpoints / f"{name}.ckpt")


def begin(folder: Path, action: str) -> Path:
    """The checkpoints of a run: one that is whole, and where the action is about one, another."""
    shutil.rmtree(folder, ignore_errors=True)
    checkpoints = RunFolder(folder).checkpoints
    IO.save_checkpoint(OLD, checkpoints / "old.ckpt")
    if action == "replace after a kill":
        IO.save_checkpoint(NEW, checkpoints / ".old.ckpt.writing")
        (checkpoints / ".old.ckpt.writing/checkpoint.json").write_text('{"format_')
    if action == "remove the newest":
        IO.save_checkpoint(NEW, checkpoints / "new.ckpt")
    return checkpoints


def operations(folder: Path, action: str, kill_at: int = 0) -> tuple[int, list[list[str]]]:
    """Do it in a process of its own; return the exit code, and each operation with its paths."""
    checkpoints, log = begin(folder, action), folder / "operations.txt"

    def watched() -> None:
        watch(checkpoints, log, kill_at)
        act(checkpoints, action)

    code = in_child(watched)
    return code, [line.split(" ") for line in log.read_text().splitlines()]


def contract_a_kill_leaves_a_whole_checkpoint(folder: Path, action: str) -> None:
    code, whole = operations(folder, action)
    assert code == 0
    newest = 1 if action == "remove the newest" else 2
    assert IO.load_checkpoint(RunFolder(folder).last_checkpoint())["step"] == newest
    for number in range(1, len(whole) + 1):
        code, _ = operations(folder, action, kill_at=number)
        place = f"killed at {number}, {whole[number - 1]}"
        assert was_killed(code), (place, code)
        try:
            left = IO.load_checkpoint(RunFolder(folder).last_checkpoint())
        except Exception as error:
            raise AssertionError(f"{place}: {error}") from error
        assert left["step"] in (1, 2)
        assert torch.equal(left["weights"], (OLD if left["step"] == 1 else NEW)["weights"])
        checkpoints = RunFolder(folder).checkpoints
        IO.save_checkpoint(NEW, checkpoints / "old.ckpt")
        assert IO.load_checkpoint(checkpoints / "old.ckpt")["step"] == 2


def contract_what_is_seen_is_on_disk(folder: Path, action: str) -> None:
    """Nothing takes its final name, and nothing older is deleted, before what it stands on is synced."""
    _, whole = operations(folder, action)
    unsynced: set[str] = set()
    for operation, path, *target in whole:
        if operation == "rmtree":
            continue
        if operation in ("create", "mkdir", "write"):
            unsynced.add(path)
        if operation == "fsync":
            unsynced.discard(path)
        if operation == "rename" and ".writing" in target[0]:  # not yet in sight
            unsynced = {target[0] if name == path else name for name in unsynced}
        elif operation == "rename":
            assert not {name for name in unsynced if name == path or name.startswith(f"{path}/")}, (path, unsynced)
            unsynced = {name for name in unsynced if not name.startswith(path)} | {str(Path(target[0]).parent)}
        if operation == "remove":
            assert not unsynced, (path, unsynced)
    assert not {name for name in unsynced if ".writing" not in name}


@pytest.mark.parametrize("action", ACTIONS)
def test_p16_a_kill_leaves_a_whole_checkpoint_and_what_is_seen_is_on_disk(action, tmp_path) -> None:
    contract_a_kill_leaves_a_whole_checkpoint(tmp_path / "run", action)
    contract_what_is_seen_is_on_disk(tmp_path / "run", action)


def in_place(final: Path, aside: Path, tensors_name: str) -> None:
    shutil.rmtree(final)
    aside.rename(final)


def header_first(final: Path, aside: Path, tensors_name: str) -> None:
    for name in (checkpoint_io.TREE_FILE, tensors_name):
        (aside / name).replace(final / name)


@pytest.mark.parametrize("other", [in_place, header_first])
def test_p16_goes_red_when_the_older_one_goes_first(other, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(checkpoint_io, "_replace", other)
    with pytest.raises(AssertionError, match="killed at"):
        contract_a_kill_leaves_a_whole_checkpoint(tmp_path / "run", "replace")


def test_p16_goes_red_when_its_tensors_are_removed_first(monkeypatch, tmp_path) -> None:
    def tensors_first(self: AdapterCheckpointIO, path: Any) -> None:
        for file in sorted(Path(path).iterdir(), reverse=True):
            file.unlink()
        Path(path).rmdir()

    monkeypatch.setattr(AdapterCheckpointIO, "remove_checkpoint", tensors_first)
    with pytest.raises(AssertionError, match="killed at"):
        contract_a_kill_leaves_a_whole_checkpoint(tmp_path / "run", "remove the newest")


@pytest.mark.parametrize("action", [action for action in ACTIONS if action != "remove the newest"])
def test_p16_goes_red_without_sync(action, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(checkpoint_io, "_sync", lambda path: None)
    with pytest.raises(AssertionError):
        contract_what_is_seen_is_on_disk(tmp_path / "run", action)


def contract_a_changed_checkpoint_is_refused(folder: Path, change: Callable[[bytes], bytes], file: str) -> None:
    checkpoint = begin(folder, "replace") / "old.ckpt"
    (path,) = checkpoint.glob(file)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CheckpointError):
        IO.load_checkpoint(checkpoint)


def flip(content: bytes, seed: int) -> bytes:
    bit = random.Random(seed).randrange(8 * len(content))
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


CUTS: list[Callable[[bytes], bytes]] = [lambda c: b"", lambda c: c[:1], lambda c: c[: len(c) // 2], lambda c: c[:-1]]
FILES = ("*.json", "*.safetensors")


@pytest.mark.parametrize("file", FILES)
def test_p16_what_was_cut_or_changed_by_a_bit_is_refused(file, tmp_path) -> None:
    for change in [*CUTS, *(partial(flip, seed=seed) for seed in range(200))]:
        contract_a_changed_checkpoint_is_refused(tmp_path / "run", change, file)


@pytest.mark.parametrize("file", FILES)
def test_p16_goes_red_without_checksums(file, monkeypatch, tmp_path) -> None:
    def unchecked(self: Any, path: Any) -> Any:
        header = checkpoint_io.json.loads((Path(path) / checkpoint_io.TREE_FILE).read_text(encoding="utf-8"))
        (tensors,) = Path(path).glob("*.safetensors")
        return checkpoint_io.join_tensors(header["tree"], checkpoint_io.load_file(tensors))

    def step_or_last_bit(content: bytes) -> bytes:
        if file == "*.json":
            return content.replace(b'"step": 1', b'"step": 7')
        return content[:-1] + bytes([content[-1] ^ 1])

    monkeypatch.setattr(AdapterCheckpointIO, "load_checkpoint", unchecked)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        contract_a_changed_checkpoint_is_refused(tmp_path / "run", step_or_last_bit, file)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, PagedAdamW8bit])
@pytest.mark.parametrize("quantization", [None, "nf4-double"])
def test_p16_a_checkpoint_is_what_trains_with_its_states_and_hardly_more(
    quantization, optimizer, bert, tmp_path
) -> None:
    path, adapter = tmp_path / "saved.ckpt", LoraConfig(r=128, target_modules="all-linear")
    made_with = {"adapter": adapter, "optimizer": lambda groups: optimizer(groups, lr=1e-3)}
    module = make_module(Case("bert", "lora", quantization), bert, **made_with)
    trainer = fit(module, bert, 2)
    trainer.strategy.checkpoint_io = IO
    trainer.save_checkpoint(path)
    states = [value for state in trainer.optimizers[0].state.values() for value in state.values()]
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    needed = sum(t.numel() * t.element_size() for t in [*trained, *states] if isinstance(t, torch.Tensor))
    assert needed < sum(file.stat().st_size for file in path.iterdir()) <= 1.05 * needed
