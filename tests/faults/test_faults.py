"""A short, seeded selection of what `python -m tests.faults` does in full (docs/reliability.md)."""

import subprocess
import sys

import pytest

from tests.faults.__main__ import run_part
from tests.faults.child import ROOT
from tests.faults.harness import Processes, World


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    with Processes(folder / "stderr") as processes:
        yield World(folder, processes, seed=1)


@pytest.mark.parametrize("part", ["kills", "sets", "checkpoints"])
def test_all_holds_after_each_fault_and_the_end_is_as_if_undisturbed(world, part):
    outcomes = list(run_part(world, part, 0.1))
    assert not [outcome for outcome in outcomes if outcome.error]
    assert sum(outcome.struck for outcome in outcomes) >= {"kills": 4, "sets": 5}.get(part, 1)


def test_a_fault_strikes_at_its_byte(tmp_path):
    """As a process of its own: a write is stopped at the very byte, and the process dies there."""
    code = "core.files.write_json(pathlib.Path(sys.argv[1]), [1] * 999)"
    (tmp_path / "script.py").write_text(f"import core.files, pathlib, sys\n{code}")
    fault = '{"kind": "bytes", "function": "core.files:write_json", "at": 77}'
    argv = [sys.executable, "-m", "tests.faults.child", fault, str(tmp_path / "script.py")]
    done = subprocess.run([*argv, str(tmp_path / "a.json")], cwd=ROOT, capture_output=True)
    assert done.returncode == -9, done.stderr
    (left,) = [path for path in tmp_path.iterdir() if path.suffix == ".partial"]
    assert left.stat().st_size == 77
