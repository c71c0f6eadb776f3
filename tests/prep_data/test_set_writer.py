"""The sharded writer: order, restart, interruption, damage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import slow_set
from set_files import contents

from core.errors import UserError
from core.files import read_json
from dataloaders import prepared_sets, records
from prep_data.report import Report
from prep_data.set_writer import SPLITS, Part, SetWriter, TaskResult
from tests.dataloaders.tiny_sets import read_split


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "set"
    slow_set.prepare(folder)
    return folder


# ---- what is written -------------------------------------------------------------------------


def test_records_files_and_totals(whole):
    meta = read_json(whole / "meta.json")
    # Tasks 0..23; 0, 5, 10, 15, 20 are skipped; of the other 19, 10 are odd.
    assert meta["records"] == {"train": 19, "valid": 19, "test": 19}
    assert meta["seen"] == 19
    report = read_json(whole / "report.json")
    assert report == {"divisible by five": {"count": 15, "first": ["0", "5", "10", "15", "20"]}}
    index = prepared_sets.read_index(whole, "train")
    assert index.classes.tolist() == ["cat", "hot dog"]
    assert index.shards.tolist() == [
        f"train/{stem}-{i:05d}-of-00004.tfrecord" for stem in ("cat", "hot_dog") for i in range(4)
    ]
    assert sorted(contents(whole)) == sorted(
        [
            *("meta.json", "prep.json", "report.json"),
            *(f"{split}.index.npz" for split in SPLITS),
            *(shard for split in SPLITS for shard in prepared_sets.read_index(whole, split).shards),
        ]
    )
    assert all(len(read_split(whole, split)) == 19 for split in SPLITS)


def test_bytes_do_not_depend_on_workers(whole, tmp_path):
    slow_set.prepare(tmp_path / "set", workers=2)
    assert contents(tmp_path / "set") == contents(whole)


def test_an_empty_part_of_an_ungrouped_set_still_has_its_file(tmp_path):
    record = {"image": b"", "coco_class": 0, "sketch_class": 0}
    with SetWriter(tmp_path, "quickdraw", {}) as out:
        parts = [Part(split, i, 2, lambda i=i: [i], 1) for split in SPLITS for i in (0, 1)]
        out.write(
            parts,
            lambda task: TaskResult([record] * task),
            lambda totals: {"records": totals.records},
            workers=0,
            report=Report(),
            unit="task",
        )
    index = prepared_sets.read_index(tmp_path, "train")
    assert index.shard_bytes.tolist() == [0, 16 + len(records.SketchRecord.encode(**record))]
    assert index.block_shard.tolist() == [1]


def test_classes_that_would_share_a_file_are_an_error(tmp_path):
    def work(task, seconds):
        record = {"image": b"", "coco_class": 0, "sketch_class": 0}
        return TaskResult([("hot dog" if task % 2 else "hot_dog", record)])

    with pytest.raises(UserError, match="'hot dog' and 'hot_dog' would share"):
        slow_set.prepare(tmp_path / "set", work=work)


# ---- restart ---------------------------------------------------------------------------------


def test_a_deleted_shard_is_made_anew_and_nothing_else(whole, tmp_path):
    folder = tmp_path / "set"
    slow_set.prepare(folder)
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*.tfrecord")}
    damaged = folder / "train" / "cat-00001-of-00004.tfrecord"
    damaged.unlink()
    slow_set.prepare(folder)
    assert contents(folder) == contents(whole)
    for path, time_ns in written.items():  # a part of a grouped set has a file of each class
        made_anew = path.parent == damaged.parent and "00001-of" in path.name
        assert (path.stat().st_mtime_ns != time_ns) == made_anew


def test_settings_bind_only_once_something_is_written(whole, tmp_path):
    with pytest.raises(UserError, match=r"other settings \(settings was 1, now 2\).*choose"):
        slow_set.prepare(whole, settings=2)
    with SetWriter(tmp_path, "quickdraw-indexed", {"settings": 5}):
        pass  # and here the command finds that a flag cannot be
    slow_set.prepare(tmp_path)
    assert contents(tmp_path) == contents(whole)


def test_a_folder_of_something_else_is_an_error(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"not empty \(thesis.tex\)"):
        slow_set.prepare(tmp_path)
    with pytest.raises(UserError, match="cannot write"):
        slow_set.prepare(tmp_path / "thesis.tex" / "set")


def test_other_sources_are_an_error(tmp_path):
    def begin(source):
        with SetWriter(tmp_path / "set", "quickdraw", {}, source) as out:
            return out.complete

    assert not begin({"a": "1"})
    assert not begin({"a": "2"})  # nothing is written yet: what was begun by mistake can be mended
    (tmp_path / "set/meta.json").write_text("{}")
    assert not begin({"a": "2"})  # no shard is there
    (tmp_path / "set/train").mkdir()
    (tmp_path / "set/train/x.tfrecord").touch()
    with pytest.raises(
        UserError, match=r"prepared from other files than these \(a has changed from 2 to 1\)"
    ):
        begin({"a": "1"})


def test_what_operating_systems_leave_is_no_content(whole, tmp_path):
    (tmp_path / ".DS_Store").touch()  # a new folder, looked at
    with SetWriter(tmp_path, "quickdraw-indexed", {"settings": 5}):
        pass
    for name in ("Thumbs.db", "@eaDir/meta.json", "lost+found/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    slow_set.prepare(tmp_path)  # other settings: nothing was written with those before
    assert contents(tmp_path).keys() - contents(whole).keys() == {
        "Thumbs.db", "@eaDir/meta.json", "lost+found/x"
    }  # fmt: skip


def test_a_set_of_which_nothing_is_left_binds_to_nothing(whole, tmp_path):
    def no_meta(totals):
        raise UserError("nothing is left")

    with pytest.raises(UserError, match=r"nothing is left. Left out: 15 divisible by five: 0, "):
        slow_set.prepare(tmp_path, settings=2, make_meta=no_meta)
    slow_set.prepare(tmp_path)
    assert contents(tmp_path) == contents(whole)


def test_two_runs_at_once_are_an_error(tmp_path):
    second = SetWriter(tmp_path, "quickdraw", {})
    with SetWriter(tmp_path, "quickdraw", {}):  # noqa: SIM117
        with pytest.raises(UserError, match="another run is preparing"):
            second.__enter__()


def test_a_failed_run_goes_on_where_it_was(whole, tmp_path):
    folder = tmp_path / "set"

    def fail_late(task, seconds):
        if task == 20:
            raise RuntimeError("broken")
        return slow_set.work(task, seconds)

    with pytest.raises(RuntimeError):
        slow_set.prepare(folder, work=fail_late)
    assert not (folder / "meta.json").exists()
    assert not list(folder.rglob("*.partial"))
    finished = {path: path.stat().st_mtime_ns for path in folder.rglob("*.tfrecord")}
    assert len(finished) == 6  # three parts of two classes
    damaged = folder / "train" / "cat-00001-of-00004.tfrecord"
    damaged.write_bytes(damaged.read_bytes()[:-1])  # this part is written again, unasked
    note = next((folder / ".progress").glob("train-*-00000-of-00004.json"))
    note.write_text(note.read_text()[:40])  # and so is this one
    slow_set.prepare(folder)
    assert contents(folder) == contents(whole)
    for path, time_ns in finished.items():
        assert (path.stat().st_mtime_ns == time_ns) == ("00002-of" in path.name)


def start_slow(folder: Path) -> tuple[subprocess.Popen, list]:
    """The slow preparation as a process of its own group, some parts done, with its workers."""
    command = [sys.executable, slow_set.__file__, str(folder), "0.15"]
    process = subprocess.Popen(
        command, start_new_session=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while len(list(folder.glob(".progress/*.json"))) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process, psutil.Process(process.pid).children(recursive=True)


def ended(processes: list) -> bool:
    def running(process):
        try:
            return process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not any(running(process) for process in processes):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_interrupted_runs_end_their_workers_and_can_go_on(whole, tmp_path, number, code):
    folder = tmp_path / "set"
    process, workers = start_slow(folder)
    assert workers
    # Ctrl-C reaches the whole group, the others only the process itself.
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert ended(workers)
    assert "Traceback" not in errors
    assert not (folder / "meta.json").exists()
    if number != signal.SIGKILL:
        assert not list(folder.rglob("*.partial"))
    notes = [read_json(path) for path in folder.glob(".progress/*.json")]
    finished = [folder / file["path"] for note in notes for file in note["shards"]]
    times = {path: path.stat().st_mtime_ns for path in finished}
    slow_set.prepare(folder)
    assert contents(folder) == contents(whole)
    assert times == {path: path.stat().st_mtime_ns for path in finished}
