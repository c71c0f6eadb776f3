"""A short, seeded selection of what `python -m tests.faults` does in full (docs/reliability.md)."""

import subprocess
import sys

import pytest

from tests.faults import page, plan
from tests.faults.child import ROOT
from tests.faults.harness import Processes
from tests.faults.world import Outcome, World


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    with Processes(folder / "stderr") as processes:
        yield World(folder, processes, seed=1)


@pytest.mark.parametrize("part", ["checkpoint-kills", "sets", "checkpoints"])
def test_what_was_struck_is_sound_and_ends_as_if_undisturbed(world, part):
    outcomes = list(plan.run(world, part, 0.1))
    assert not [outcome for outcome in outcomes if outcome.error]
    faults = [outcome for outcome in outcomes if outcome.window != "the end"]
    struck = [outcome for outcome in faults if outcome.where]
    # Two of the faults at bytes or lines may come after all is done.
    assert len(faults) >= {"checkpoint-kills": 2, "sets": 5, "checkpoints": 1}[part]
    assert len(struck) >= max(1, len(faults) - 2)


def test_a_fault_that_is_meant_to_strike_does(tmp_path):
    """As a process of its own: a write is stopped at the very byte, and the process dies there."""
    code = "core.files.write_json(pathlib.Path(sys.argv[1]), [1] * 999)"
    (tmp_path / "script.py").write_text(f"import core.files, pathlib, sys\n{code}")
    fault = '{"kind": "bytes", "function": "core.files:write_json", "at": 77}'
    argv = [sys.executable, "-m", "tests.faults.child", fault, str(tmp_path / "script.py")]
    done = subprocess.run([*argv, str(tmp_path / "a.json")], cwd=ROOT, capture_output=True)
    assert done.returncode == -9, done.stderr
    (left,) = [path for path in tmp_path.iterdir() if path.suffix == ".partial"]
    assert left.stat().st_size == 77


def test_the_page_counts_what_struck(tmp_path):
    kills = [
        Outcome("kill -9", "a checkpoint", "at byte 3", "its data", 2),
        Outcome("kill -9", "a checkpoint", "at byte 4", "its data", 1),
        Outcome("kill -9", "a checkpoint", "at byte 9"),
        Outcome("kill -9", "the end", "3 starts", "all steps done", error="step 4 differs"),
    ]
    content = {"seed": 0, "seconds": 60, "outcomes": [each._asdict() for each in kills]}
    text = page.make({"checkpoint-kills": content}, tmp_path)
    assert "**2 kills** of 3 meant struck" in text
    assert "| a checkpoint | its data | 2 | 2 | 2 | 2 |" in text
    assert "| a checkpoint | not struck | 1 | 0 | 1 | 0 |" in text
    assert "0 are bit for bit what they are undisturbed, 1 are not" in text
    assert "* the end, 3 starts: step 4 differs" in text
