"""Whether the tests notice small faults: seeded mutants of src, each tested until a first test fails.

python -m tools.mutants [--seed 0] [--count 40] [--list] [--tree CHECKOUT] [--out docs/mutants.md]
python -m tools.mutants --by-hand data/split.py 'a < b' 'a <= b' [--tree CHECKOUT]

Each mutant is tested in a copy of the tree, from the nearest tests to the farthest: the file that mirrors it, its room,
the other fast tests, the slow ones. Rows are written as they come; a run that was interrupted goes on, and whoever
deletes a row has its mutant tested again. Set PEFTLIT_SHARED as for the tests; PYTEST_ADDOPTS="-n 2" takes two cores.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from tools.mutants.changes import SRC, Mutant, pick

ROOT = Path(__file__).parents[2]
SILENCE_S = 900.0
"""A test that takes longer hangs."""
_LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "venv", "runs", "__pycache__", ".*_cache")
_NOTES = "\n## Survivors that change nothing observable, and why\n"


def stages(tree: Path, mutant: Mutant) -> list[list[str]]:
    """Order the tests from the nearest to the farthest: what one pytest after another is called with."""
    folder, _, name = f"tests/{mutant.file}".rpartition("/")
    mirror, room = f"{folder}/test_{name}", "/".join(folder.split("/")[:2])
    names = [f"peftlit.{mutant.file[:-3].replace('/', '.')}", mutant.function.rpartition(".")[2] or "peftlit"]
    texts = {path.relative_to(tree).as_posix(): path.read_text("utf-8") for path in tree.glob("tests/**/test_*.py")}
    distances = {test: (not test.startswith(f"{room}/"), -sum(map(text.count, names))) for test, text in texts.items()}
    others = sorted(texts.keys() - {mirror}, key=lambda test: (distances[test], test))
    rest = [["-m", f"{speed} and not gpu", *others] for speed in ("not slow", "slow")]
    return [[mirror], *rest] if mirror in texts else rest


def first_failure(tree: Path, mutant: Mutant | None, runs: list[list[str]]) -> str | None:
    """Name the first test that fails in a copy of a tree with a mutant, or that hangs there."""
    with tempfile.TemporaryDirectory(prefix="mutant", ignore_cleanup_errors=True) as folder:
        copy = Path(folder, "tree")
        shutil.copytree(tree, copy, ignore=_LEFT_OUT)
        if mutant is not None:
            (copy / SRC / mutant.file).write_bytes(mutant.source)
        # a server of tests/fork_server.py ends with its folder, which is in TMPDIR
        environment = {**os.environ, "PYTHONPATH": str(copy / "src"), "TMPDIR": folder, "OMP_NUM_THREADS": "1"}
        where = [sys.executable, "-c", "import importlib.util as u; print(u.find_spec('peftlit').origin)"]
        assert subprocess.check_output(where, env=environment, text=True).startswith(folder), "another src is imported"
        return next((name for run in runs if (name := _pytest(run, copy, environment))), None)


def _pytest(arguments: list[str], copy: Path, environment: dict[str, str]) -> str | None:
    command = [sys.executable, "-m", "pytest", "-xv", "--tb=no", "-p", "no:cacheprovider", *arguments]
    log = copy.with_name("log")
    with log.open("w") as out:
        process = psutil.Popen(command, cwd=copy, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        while process.poll() is None and time.time() - log.stat().st_mtime < SILENCE_S:
            time.sleep(0.2)
    finally:
        hangs = process.poll() is None
        for one in [*process.children(recursive=True), process] if hangs else []:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()
    said = log.read_text("utf-8", errors="replace").strip()
    if process.returncode in (0, 5):  # 5: there is no such test
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", said, re.MULTILINE)
    last = said.rpartition("\n")[2]
    return f"{last} (hangs)" if hangs else failed[1] if failed else last


def page(picked: list[Mutant], verdicts: dict[str, str], command: str, notes: str) -> str:
    """Write the table; what was noted by hand below it stays."""
    rows = [f"| {i} | {mutant.row} | {verdicts.get(mutant.row, 'not tested')} |" for i, mutant in enumerate(picked, 1)]
    survived, untested = (sum(row.endswith(f"| {word} |") for row in rows) for word in ("survived", "not tested"))
    head = f"""# Mutants

Small faults put into `{SRC}`, one at a time, and the first test that fails with each: {len(rows) - survived - untested}
were caught, {survived} survived, {untested} were not tested. Made by `{command}`.

| | file | function | before | after | caught by |
|---|---|---|---|---|---|
"""
    return head + "\n".join(rows) + "\n" + _NOTES + notes


def main() -> None:
    """Test the mutants that are picked, or one by hand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--list", action="store_true", help="print the mutants and test nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/mutants.md")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout whose src is changed and whose tests run")
    parser.add_argument("--by-hand", nargs=3, metavar=("FILE", "BEFORE", "AFTER"))
    given = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # in the background too, pytest is to end with this
        signal.signal(number, signal.default_int_handler)
    tree = given.tree.resolve()
    if given.by_hand:
        file, before, after = given.by_hand
        head, tail = (tree / SRC / file).read_text("utf-8").split(before)  # there is one place
        mutant = Mutant(file, "", "by hand", before, after, f"{head}{after}{tail}".encode())
        return print(first_failure(tree, mutant, stages(tree, mutant)) or "survived")
    picked = pick(tree, given.seed, given.count)
    if given.list:
        return print(*(mutant.row for mutant in picked), sep="\n")
    written, _, notes = given.out.read_text("utf-8").partition(_NOTES) if given.out.exists() else ("", "", "")
    verdicts = dict(re.findall(r"^\| \d+ \| (.+) \| (`.+?`|survived) \|$", written, re.MULTILINE))
    command = f"python -m tools.mutants --seed {given.seed} --count {given.count}"
    for mutant in picked:
        if mutant.row not in verdicts:
            name = first_failure(tree, mutant, stages(tree, mutant))
            verdicts[mutant.row] = "`{}`".format(name.replace("|", r"\|")) if name else "survived"
            print(mutant.row, "|", verdicts[mutant.row], flush=True)
        given.out.write_text(page(picked, verdicts, command, notes), encoding="utf-8")
    caught = [re.match(r"`(tests/.+?)(?: \(hangs\))?`", verdicts[mutant.row]) for mutant in picked]
    tests = sorted({name[1].replace(r"\|", "|") for name in caught if name})
    broken = first_failure(tree, None, [tests] if tests else [])
    sys.exit(broken and f"{broken} fails without a mutant too")


if __name__ == "__main__":
    main()
