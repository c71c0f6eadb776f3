"""core.status: what it says of runs that live, that have ended, and of folders of other things."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from core import commands, status
from core.run_folder import HParamGroups, RunConfig, RunFolder

ROOT = Path(__file__).resolve().parents[2]
NOW = 1_000_000.0


def make(out, run_id="01", last=100, saved=(), lines=(), start=0):
    """A run's folder as training leaves it."""
    run = RunFolder(out, "fake-model", run_id)
    run.create()
    entry = {
        "step": start, "loader": "l", "command": [], "versions": {}, "git": None, "time": "",
        "seed": 0, "data": {}, "changes": {},
    }  # fmt: skip
    RunConfig("fake-model", "l", HParamGroups({"iterations": last}, {}, {}), (entry,)).write(
        run.config
    )
    for step in saved:
        folder = run.checkpoints / f"step-{step:08d}"
        folder.mkdir(parents=True)
        (folder / "state.json").touch()
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def line(step, wall, seconds=0.5, **losses):
    return {"step": step, "losses": {"fit_loss": 0.25, "total_loss": 1.5, **losses},
            "time": seconds, "data_time": 0.0, "wall": wall}  # fmt: skip


def shown(out):
    """The cells of each run, by its name."""
    return {row["run"]: row for folder in out.iterdir() for row in status.run_rows(folder)}


def test_a_living_run_worked_by_hand(tmp_path, monkeypatch):
    """Steps 30 to 50 took 8 s, an evaluation included: 2.5 a second, and 4950 are left: 33 minutes.
    The line of step 20 is of an earlier start, an hour ago."""
    monkeypatch.setattr(time, "time", lambda: NOW)
    lines = [line(20, NOW - 3600), line(30, NOW - 13), line(40, NOW - 12), line(50, NOW - 5)]
    run = make(tmp_path, last=5000, saved=(10, 20), lines=lines, start=20)
    with run.lock():
        assert shown(tmp_path)["fake-model-01"] == {
            "run": "fake-model-01", "state": f"training (pid {os.getpid()})", "step": "50/5000",
            "steps/s": "2.5", "left": "33 min", "checkpoint": "20", "logged": "5 s ago",
            "losses": "total_loss 1.5  fit_loss 0.25",
        }  # fmt: skip
    row = shown(tmp_path)["fake-model-01"]
    assert row["state"] == "stopped at 20" and not {"steps/s", "left"} & row.keys()


def test_the_speed_of_a_single_line_is_what_it_says(tmp_path):
    run = make(tmp_path, last=100, lines=[line(10, NOW, seconds=0.5)])
    with run.lock():
        row = shown(tmp_path)["fake-model-01"]
    assert (row["steps/s"], row["left"]) == ("2", "45 s")


def test_states(tmp_path):
    make(tmp_path, "done", last=100, saved=(50, 100))
    make(tmp_path, "early", last=100)
    make(tmp_path, "damaged", last=100, saved=(10, 20))
    (tmp_path / "fake-model-damaged/checkpoints/step-00000020/state.json").unlink()
    RunFolder(tmp_path, "fake-model", "killed").create()
    (tmp_path / "fake-model-killed/.lock").write_text("1\n")  # no process holds it
    found = {name: (row["state"], row.get("checkpoint")) for name, row in shown(tmp_path).items()}
    assert found == {
        "fake-model-done": ("finished", "100"),
        "fake-model-early": ("stopped, nothing saved", None),
        "fake-model-damaged": ("stopped at 20", "20 (damaged)"),
        "fake-model-killed": ("failed at its start", None),
    }


def test_what_is_no_run_is_passed_over(tmp_path, capsys):
    for name, files in (
        ("report-1", ["config.json"]), ("coco-crops", ["prep.json", ".lock", "meta.json"]),
        ("no", ["metrics.jsonl"]), (".hidden", []), ("some-thing", []),
    ):  # fmt: skip
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text('{"experiment": "report"}')
    assert shown(tmp_path) == {}
    assert commands.run(status.main, [str(tmp_path)]) == 1
    assert commands.run(status.main, [str(tmp_path / "none")]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "there is no run in" in first and "No such file or directory" in second


def test_a_broken_folder_is_one_line_and_the_others_are_shown(tmp_path, capsys):
    run = make(tmp_path, "good", lines=[line(10, NOW)])
    with run.metrics.open("a") as file:
        file.write('{"step": 20, "losses": {"total_')  # being written
    for run_id, text in (("text", "no json"), ("list", "[1]"), ("huge", None)):
        broken = make(tmp_path, run_id, last=10**400)
        if text is not None:
            broken.config.write_text(text)
    folder = make(tmp_path, "folder").metrics
    folder.unlink()
    folder.mkdir()
    assert commands.run(status.main, [str(tmp_path)]) == 0
    printed, errors = capsys.readouterr()
    head, good, *broken = printed.splitlines()
    assert errors == "" and head.split()[:2] == ["run", "state"]
    assert good.startswith("fake-model-good  ") and " 10/100 " in good and "total_loss 1.5" in good
    assert [text.split("  cannot be read: ")[0] for text in broken] == [
        f"fake-model-{run_id}" for run_id in ("folder", "huge", "list", "text")
    ]


def test_only_the_end_of_long_metrics_is_read(tmp_path):
    run = make(tmp_path, last=10**6, lines=[line(step, NOW + step) for step in range(1, 3000)])
    assert run.metrics.stat().st_size > 4 * status._TAIL_BYTES
    lines = status._last_lines(run.metrics)
    assert lines[-1]["step"] == 2999 and 100 < len(lines) < 2000
    assert [each["step"] for each in lines] == list(range(3000 - len(lines), 3000))


HOLD = """
import sys, time
from core.run_folder import RunFolder
with RunFolder(sys.argv[1], "fake-model", "01").lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process_is_seen_and_a_killed_one_not(tmp_path):
    make(tmp_path, saved=(10,))
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "held\n"
        lock = (tmp_path / "fake-model-01/.lock").read_bytes()
        # From a process of its own, as people do, which must not load TensorFlow.
        code = (
            "import sys; from core import status; status.main(sys.argv[1:])\n"
            "assert 'tensorflow' not in sys.modules"
        )
        answer = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        assert f"training (pid {child.pid})" in answer.stdout
        assert (tmp_path / "fake-model-01/.lock").read_bytes() == lock
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=30)
    assert shown(tmp_path)["fake-model-01"]["state"] == "stopped at 10"


def test_looking_never_keeps_a_run_from_starting(tmp_path):
    run, ended = make(tmp_path), threading.Event()

    def look():
        while not ended.is_set():
            RunFolder(tmp_path, "fake-model", "01").training_process()

    looker = threading.Thread(target=look)
    looker.start()
    try:
        for _ in range(100):
            with run.lock():
                pass
    finally:
        ended.set()
        looker.join()
