"""The sharded writer: order, restart, interruption, damage; the report; the pool."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import slow_set

from core.errors import UsageError, UserError
from core.files import read_json
from dataloaders import records
from prep_data import common
from tests.dataloaders import tiny_sets


def contents(folder: Path) -> dict:
    """Every file of a set with its bytes; the lock and the kept hashes are no part of it."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "set"
    slow_set.prepare(folder)
    return folder


# ---- what is written -------------------------------------------------------------------------


def test_records_files_and_totals(whole):
    meta = records.read_meta(whole, "quickdraw-indexed")
    # Tasks 0..23; 0, 5, 10, 15, 20 are skipped; of the other 19, 10 are odd.
    assert meta["records"] == {"train": 19, "valid": 19, "test": 19}
    assert meta["classes"]["valid"] == {"cat": 9, "hot dog": 10}
    assert meta["seen"] == 19
    report = read_json(whole / "report.json")
    assert report == {"divisible by five": {"count": 15, "first": ["0", "5", "10", "15", "20"]}}
    index = records.read_index(whole, "train")
    assert index.classes.tolist() == ["cat", "hot dog"]
    assert index.shards.tolist() == [
        f"train/{stem}-{i:05d}-of-00004.tfrecord" for stem in ("cat", "hot_dog") for i in range(4)
    ]
    assert sorted(contents(whole)) == sorted(
        [
            *("meta.json", "prep.json", "report.json"),
            *(f"{split}.index.npz" for split in common.SPLITS),
            *(
                shard
                for split in common.SPLITS
                for shard in records.read_index(whole, split).shards
            ),
        ]
    )
    assert all(len(tiny_sets.read_split(whole, split)) == 19 for split in common.SPLITS)


def test_records_keep_the_order_of_the_tasks(whole):
    import tensorflow as tf

    path = whole / "train" / "hot_dog-00001-of-00004.tfrecord"
    serialized = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    assert records.SketchRecord.parse(serialized).sketch_class.numpy().tolist() == [7, 9, 11]


def test_bytes_do_not_depend_on_workers(whole, tmp_path):
    slow_set.prepare(tmp_path / "set", workers=2)
    assert contents(tmp_path / "set") == contents(whole)


def test_an_empty_part_of_an_ungrouped_set_still_has_its_file(tmp_path):
    with common.PreparedSet(tmp_path, "coco-scenes", {}) as out:
        parts = [
            common.Part(split, i, 2, lambda i=i: [i], 1) for split in common.SPLITS for i in (0, 1)
        ]
        out.write(
            parts,
            lambda task: common.Done([b"record"] * task),
            lambda payload: payload,
            lambda totals: {"records": totals.records},
            stem="scenes",
            workers=0,
            report=common.Report(),
        )
    index = records.read_index(tmp_path, "train")
    assert index.shard_bytes.tolist() == [0, 16 + 6]
    assert index.block_shard.tolist() == [1]


def test_classes_that_would_share_a_file_are_an_error(tmp_path):
    def work(task, seconds):
        return common.Done([("hot dog" if task % 2 else "hot_dog", (b"", 0, 0))])

    with pytest.raises(UserError, match="'hot dog' and 'hot_dog' would share"):
        slow_set.prepare(tmp_path / "set", work=work)


# ---- restart ---------------------------------------------------------------------------------


def test_a_complete_set_is_left_alone(whole):
    before = contents(whole)
    assert slow_set.prepare(whole) is None
    assert contents(whole) == before


def test_other_settings_are_an_error(whole):
    with pytest.raises(UserError, match=r"other settings \(settings was 1, now 2\).*choose"):
        slow_set.prepare(whole, settings=2)


def test_settings_bind_only_once_something_is_written(whole, tmp_path):
    with common.PreparedSet(tmp_path, "quickdraw-indexed", {"settings": 5}):
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
        with common.PreparedSet(tmp_path / "set", "quickdraw", {}, source) as out:
            return out.complete

    assert not begin("a")
    assert not begin("b")  # nothing is written yet: what was begun by mistake can be mended
    (tmp_path / "set/meta.json").write_text("{}")
    assert begin("b")
    with pytest.raises(UserError, match="was prepared from other files than these"):
        begin("a")
    (tmp_path / "set/prep.json").write_text(
        json.dumps({"kind": "quickdraw", "schema": records.SCHEMA})
    )
    assert begin("a")  # a set of an older version does not say


def test_a_fingerprint_is_of_contents_and_sizes(tmp_path):
    for name in ("a", "b"):
        for folder in ("here", "there"):
            (tmp_path / folder / "images").mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / "images" / name).write_text(name)

    def of(folder):
        return common.fingerprint([folder / "a"], [folder / "b"])

    here, there = (tmp_path / name / "images" for name in ("here", "there"))
    found = common.fingerprint([here / "a"], [here / "b"])
    assert of(here) == of(there) == found
    (there / "b").write_text("c")  # a picture of the same size: not looked into
    assert of(there) == found
    (there / "b").write_text("cc")
    assert of(there) != found
    (there / "b").write_text("b")
    (there / "a").write_text("c")
    assert of(there) != found


def test_two_runs_at_once_are_an_error(tmp_path):
    second = common.PreparedSet(tmp_path, "quickdraw", {})
    with common.PreparedSet(tmp_path, "quickdraw", {}):  # noqa: SIM117
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
    note.write_text("{}")  # and so is this one
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
    finished = [folder / file["path"] for note in notes for file in note["files"]]
    times = {path: path.stat().st_mtime_ns for path in finished}
    slow_set.prepare(folder)
    assert contents(folder) == contents(whole)
    assert times == {path: path.stat().st_mtime_ns for path in finished}


# ---- the pool --------------------------------------------------------------------------------


def test_a_dead_worker_is_an_error(tmp_path):
    with pytest.raises(UserError, match="a worker process died"):
        slow_set.prepare(tmp_path / "set", workers=1, work=slow_set.die)
    assert not list((tmp_path / "set").rglob("*.partial"))


def test_ordered_map_reads_only_so_far_ahead():
    taken = []

    def tasks():
        for i in range(50):
            taken.append(i)
            yield i

    with common.worker_pool(2) as pool:
        for i, result in enumerate(common.ordered_map(pool, float, tasks(), 4)):
            assert result == i
            assert len(taken) <= i + 4


# ---- the rest --------------------------------------------------------------------------------


def test_report_counts_and_names():
    report = common.Report()
    for i in range(7):
        report.add("bad", f"b{i}")
    report.extend([common.Problem("worse", "w")])
    other = common.Report()
    other.add("worse", "v", 10)
    report.merge(other.to_dict())
    assert report.to_dict() == {
        "bad": {"count": 7, "first": ["b0", "b1", "b2", "b3", "b4"]},
        "worse": {"count": 11, "first": ["w", "v"]},
    }
    first, second = report.lines()
    assert first.split() == ["11", "worse:", "w,", "v,", "..."]
    assert second.split() == ["7", "bad:", "b0,", "b1,", "b2,", "b3,", "b4,", "..."]


def test_flags_out_of_range(tmp_path):
    parser = common.base_parser("x", "")

    def check(*flags):
        args = parser.parse_args(["--dataset-dir", str(tmp_path), "--target-dir", "t", *flags])
        common.check_base_args(args)
        return args

    assert common.chunks(check("--n-chunks", "7")) == {"train": 7, "valid": 1, "test": 1}
    for flag in ("--n-chunks", "--valid-n-chunks", "--test-n-chunks"):
        for wrong in ("0", "10001", "1" + "0" * 400):
            with pytest.raises(UsageError, match=f"{flag} is {wrong}: it must be 1 to 10000"):
                check(flag, wrong)
    with pytest.raises(UsageError, match="--workers"):
        check("--workers", "-1")
    with pytest.raises(UsageError, match="--workers is 5000: it must be 0 to 256"):
        check("--workers", "5000")
    with pytest.raises(UsageError, match="--seed"):
        check("--seed", "-1")
    with pytest.raises(UserError, match="is not a folder"):
        check("--dataset-dir", str(tmp_path / "none"))
