"""Markdown tables over runs, against tables written by hand."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from core.commands import run
from core.run_folder import HParamGroups, RunConfig
from experiments.tables.table import main, markdown, read_sources

ROOT = Path(__file__).resolve().parents[3]
LOADER = "coco-tfrecord"


def figure(metric, value, labels, **more):
    return {
        "metric": metric, "split": "valid", "value": value, "n": 8, "labels": labels, "gallery": 8,
        "chance": 0.125, "ceiling": None, "interval": [0.1, 0.5], "controls": {}, **more,
    }  # fmt: skip


def query(boxes, sketches, **more):
    return {"boxes": boxes, "sketches": sketches, **more, "vector": "token"}


SEARCH = [
    figure("sbir-mAP", 0.5, query("shared", "real"), interval=None, chance=0.34),
    figure("sbir-mAP", 0.25, query("shared", "blank"), interval=None, chance=0.34),
    figure("sbir-mAP", 0.375, query("jittered", "real", jitter="0.2"), chance=None),
    figure("sbir-top10", 1.0, query("shared", "real"), interval=[1.0, 1.0], chance=1.0),
    figure("sbir-top10", 1.0, query("shared", "blank"), interval=None, chance=1.0),
    figure("sbir-top1", 0.25, query("shared", "real")),
    figure("sbir-top1", 0.125, query("shared", "blank"), interval=[0.0, 0.375]),
]
MASKS = figure(
    "mask-iou", 0.7, {"view": "photo"}, gallery=None, chance=None, n=3,
    controls={"all_ones": 0.5, "minus_class_mean": 0.1, "minus_class_mean_low": 0.05,
              "minus_class_mean_high": 0.2},
)  # fmt: skip


def save(folder, results, step=100, loader=LOADER, split="valid", **changes):
    """An evaluation of the run in `folder`."""
    path = folder / "evaluation" / f"{loader}-{split}-step-{step}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "schema": 2, "run": folder.name, "command": ["evaluate-metrics.py"], "step": step,
        "loader": loader, "split": split, "results": results, **changes,
    }  # fmt: skip
    path.write_text(json.dumps(content))
    path.with_name(f"._{path.name}").write_bytes(b"what Finder leaves on a network disk")
    return path


def steps(folder, *times):
    """metrics.jsonl with a line every 10 steps."""
    lines = ({"step": 10 * k, "losses": {}, "time": time} for k, time in enumerate(times, start=1))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def table(*runs, **where):
    return markdown(read_sources(map(str, runs)), where)


def cells(text):
    """[head, rows ...] of the first table, as lists of cells."""
    lines = [line for line in text.split("\n\n")[1].splitlines() if not line.startswith("|--")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def column(text, head):
    heads, *rows = cells(text)
    return [row[heads.index(head)] for row in rows]


BY_HAND = r"""
Scenes found by sketches (`sbir`); chance of recall@1, recall@10, mAP; all with vector=token:

| run    | protocol                                | split               | n   | gallery | recall@1             | recall@10            | mAP                  | chance                | steps | s/step |
|---|---|---|---|---|---|---|---|---|---|---|
| g-A\|B | boxes=shared sketches=real              | coco-tfrecord valid | 8   | 8       | 0.250 [0.100, 0.500] | 1.000 [1.000, 1.000] | 0.500                | 0.125 / 1.000 / 0.340 | 30    | 0.2    |
| g-A\|B | boxes=shared sketches=blank             | coco-tfrecord valid | 8   | 8       | 0.125 [0.000, 0.375] | 1.000                | 0.250                | 0.125 / 1.000 / 0.340 | 30    | 0.2    |
| g-A\|B | boxes=jittered sketches=real jitter=0.2 | coco-tfrecord valid | 8   | 8       |                      |                      | 0.375 [0.100, 0.500] |                       | 30    | 0.2    |

Other figures; all with view=photo:

| run    | figure   | split               | n   | value                | beside it                                         | steps |
|---|---|---|---|---|---|---|
| g-A\|B | mask-iou | coco-tfrecord valid | 3   | 0.700 [0.100, 0.500] | all ones 0.5, minus class mean 0.1 [0.050, 0.200] | 30    |
"""  # noqa: E501


def test_a_run_as_written_by_hand(tmp_path):
    """s/step is the median of the lines up to step 30, 0.1, 0.4 and 0.2, without the 9 after it."""
    folder = tmp_path / "g-A|B"
    save(folder, [*SEARCH, MASKS], step=30)
    steps(folder, 0.1, 0.4, 0.2, 9.0, 9.0)
    assert single_spaced(table(folder)) == single_spaced(BY_HAND.strip())


def single_spaced(text):
    return re.sub("-{2,}", "---", re.sub(" +", " ", text))


def test_the_newest_evaluation_of_each_loader_and_split(tmp_path):
    folder = tmp_path / "run"
    for step, loader, split in (
        (90, "b", "valid"), (1000, "b", "valid"), (200, "b", "test"), (5, "a", "valid"),
    ):  # fmt: skip
        save(folder, SEARCH[-2:], step, loader, split)
    text = table(folder)
    assert column(text, "steps") == ["5", "5", "200", "200", "1000", "1000"]
    assert column(text, "split") == [w for w in ("a valid", "b test", "b valid") for _ in "12"]
    older = folder / "evaluation/b-valid-step-90.json"
    assert column(table(older), "steps") == ["90", "90"]


def test_runs_stand_together_under_one_protocol_and_controls_beside_them(tmp_path):
    rows = [
        figure("sbir-top1", 0.5, query(boxes, sketches))
        for sketches in ("shuffled", "blank", "odd", "real")
        for boxes in ("own", "shared")
    ]
    for name in ("B", "A"):
        save(tmp_path / name, rows)
    text = table(tmp_path / "B", tmp_path / "A")
    assert list(zip(column(text, "run"), column(text, "protocol"))) == [
        (name, f"boxes={boxes} sketches={sketches}")
        for boxes in ("own", "shared")
        for name in ("B", "A")
        for sketches in ("real", "blank", "shuffled", "odd")
    ]


def test_labels_that_differ_are_in_the_rows(tmp_path):
    one = save(tmp_path / "A", [figure("sbir-top1", 0.5, query("own", "real", dropped="0.3"))])
    two = save(tmp_path / "B", [figure("sbir-top1", 0.5, {"sketches": "real", "vector": "x"})])
    assert column(table(one, two), "protocol") == [
        "boxes=own sketches=real dropped=0.3 vector=token", "sketches=real vector=x",
    ]  # fmt: skip


def test_a_gallery_that_grows(tmp_path):
    """As of 'extended-gallery': its sizes are rows of their own."""
    rows = [
        figure("sbir-top50", 1 / size, query("own", sketches), gallery=size)
        for sketches in ("real", "blank")
        for size in (8, 16)
    ]
    folder = tmp_path / "A"
    text = table(save(folder, rows))
    assert column(text, "gallery") == ["8", "8", "16", "16"]
    assert column(text, "recall@50")[::2] == ["0.125 [0.100, 0.500]", "0.062 [0.100, 0.500]"]


def test_objects_and_the_test_split(tmp_path):
    rows = [figure("obj-sbir-top5-test", 0.5, {"average": "macro"}, split="test", ceiling=0.75)]
    text = table(save(tmp_path / "A", rows, split="test"))
    assert text.startswith("Objects found by their sketches (`obj-sbir`); all with average=macro:")
    assert column(text, "perfect classifier") == ["0.750"]
    assert column(text, "recall@5") == ["0.500 [0.100, 0.500]"]


def test_features_of_another_system(tmp_path):
    rows = [figure("sbir-top1", 0.5, {"sketches": "real", "distance": "cosine"}, split="-")]
    path = tmp_path / "q_in_g_sbir.json"
    path.write_text(json.dumps({"schema": 1, "featsfile": "q.npz", "results": rows}))
    heads, row = cells(table(path))
    assert row[0] == "q.npz" and not {"split", "steps", "s/step"} & set(heads)


def test_runs_of_one_name_are_called_by_their_paths(tmp_path):
    runs = [tmp_path / place / "A" for place in "xy"]
    for each in runs:
        save(each, SEARCH[-1:])
    assert column(table(*runs), "run") == list(map(str, runs))
    # The same folder twice is one, and two files of one run have no need of paths.
    assert column(table(runs[0], f"{runs[0]}/"), "run") == ["A"]
    files = [save(runs[0], SEARCH[-1:], split=split) for split in ("valid", "test")]
    assert column(table(*files), "run") == ["A", "A"]


def test_seconds_a_step_where_they_are_unknown(tmp_path):
    folder = tmp_path / "A"
    save(folder, SEARCH[-1:])
    assert "s/step" not in table(folder)
    steps(folder, None, "fast", float("inf"))
    assert "s/step" not in table(folder)
    (folder / "metrics.jsonl").write_text('{"step": 1, "time": 0.5}\n{"step": 2, "ti')
    assert column(table(folder), "s/step") == ["0.5"]


def test_where(tmp_path):
    folder = tmp_path / "A"
    save(folder, [*SEARCH, MASKS])
    save(folder, SEARCH, loader="b")
    text = table(folder, boxes="shared", sketches="blank", loader="b")
    assert column(text, "split") == ["b valid"] and "mask-iou" not in text
    assert table(folder, view="photo").startswith("Other figures")


@pytest.mark.parametrize(
    ("where", "piece", "code"),
    [
        ("boxes", "'boxes' is not like boxes=jittered", 2),
        ("boxes=", "'boxes=' is not like", 2),
        ("boxs=shared", "no figure has 'boxs'. Did you mean 'boxes'?", 2),
        ("boxes=own", "no figure has boxes=own, only jittered, shared", 2),
        ("boxes=jittered,sketches=blank", "no figure has all of that together", 1),
    ],
)
def test_where_nothing_is(tmp_path, capsys, where, piece, code):
    save(tmp_path / "A", SEARCH)
    assert run(main, [str(tmp_path / "A"), "--where", where]) == code
    told = capsys.readouterr()
    assert told.err.count("\n") == 1 and piece in told.err and told.out == ""


def refused(argv, capsys):
    assert run(main, list(map(str, argv))) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_run_that_has_not_been_evaluated(tmp_path, capsys):
    folder = tmp_path / "graph-attention-S D01"
    folder.mkdir()
    assert f"{folder}/config.json" in refused([folder], capsys)
    RunConfig("graph-attention", LOADER, HParamGroups({}, {}, {})).write(folder / "config.json")
    assert refused([folder], capsys).endswith(
        f"python evaluate-metrics.py graph-attention -o {tmp_path} --id 'S D01'"
    )


@pytest.mark.parametrize(
    ("spoil", "piece"),
    [
        (lambda path: path.write_bytes(b"\xff"), "is not valid JSON"),
        (lambda path: save(path.parents[1], [SEARCH[0]] * 2), "has sbir-mAP twice under boxes=sh"),
        (lambda path: save(path.parents[1], []), "no figures in "),
    ],
)
def test_damaged_files(tmp_path, capsys, spoil, piece):
    path = save(tmp_path / "A", SEARCH)
    spoil(path)
    told = refused([tmp_path / "A"], capsys)
    assert piece in told and str(path) in told
    assert piece in refused([path], capsys)


def test_the_command_needs_no_tensorflow(tmp_path):
    folder = tmp_path / "A"
    save(folder, SEARCH)
    code = "import sys, experiments.tables.ablations; from experiments.tables.table import main"
    code += "; main(sys.argv[1:])"
    code += "; assert 'tensorflow' not in sys.modules"
    for command in (["-c", code], ["-m", "experiments.tables.table"]):
        done = subprocess.run(
            [sys.executable, *command, str(folder)], cwd=ROOT, capture_output=True, text=True,
            timeout=120, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.stdout == table(folder) + "\n" and done.stderr == ""
