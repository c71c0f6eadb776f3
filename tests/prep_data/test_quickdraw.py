"""The two Quick, Draw! commands from .npz files to records, on good and on bad input."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from set_files import contents

from core.errors import UsageError, UserError
from dataloaders import prepared_sets, records, sketches
from prep_data import index_quickdrawtf, quickdraw_drawings, quickdraw_to_tfrecord
from prep_data.set_writer import SPLITS, SetWriter

RELATION = {"cat": "cat", "mug": "cup", "coffee cup": "cup", "sun": "light", "yoga": "person"}
COCO = ["cat", "cup", "light", "person"]
COUNTS = {"train": 60, "valid": 5, "test": 4}
COMMANDS = {"mixed": quickdraw_to_tfrecord.main, "indexed": index_quickdrawtf.main}


def drawing(rng: np.random.Generator) -> np.ndarray:
    rows = np.zeros((int(rng.integers(4, 30)), 3), np.int16)
    rows[:, :2] = rng.integers(-40, 41, (len(rows), 2))
    rows[-1, 2] = 1
    return rows


def write_class(folder: Path, name: str, drawings: dict) -> None:
    arrays = {}
    for split, mine in drawings.items():
        arrays[split] = np.empty(len(mine), object)
        for i, strokes in enumerate(mine):
            arrays[split][i] = strokes
    np.savez_compressed(folder / f"{name}.npz", **arrays)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A folder of four mapped classes ('yoga' is missing) and one nobody asked for, the class
    relationship, and the drawings that can be rasterised: {class: {split: [strokes]}}."""
    folder = tmp_path_factory.mktemp("quickdraw")
    good = {}
    for number, name in enumerate(["cat", "coffee cup", "mug", "sun", "zigzag"]):
        rng = np.random.default_rng(number)
        good[name] = {s: [drawing(rng) for _ in range(n)] for s, n in COUNTS.items()}
        everything = {split: list(mine) for split, mine in good[name].items()}
        if name == "cat":
            everything["train"].insert(3, np.zeros((0, 3), np.int16))
            everything["valid"].insert(1, np.ones((6, 3), np.int16))  # all pen-up
        write_class(folder, name, everything)
    del good["zigzag"]
    relation = folder / "relation.json"
    relation.write_text(json.dumps(RELATION))
    return folder, relation, good


@pytest.fixture
def small_buckets(monkeypatch):
    """Several buckets although the files are small (without workers, which would not see it)."""
    monkeypatch.setattr(quickdraw_drawings, "_BUCKET_BYTES", 3000)
    monkeypatch.setattr(quickdraw_drawings, "_RUN", 3)


def run(kind: str, source, target: Path, *more: str) -> dict:
    COMMANDS[kind](
        [
            *("--dataset-dir", str(source[0]), "--target-dir", str(target), "--workers", "0"),
            *("--class-relationship", str(source[1]), *more),
        ]
    )
    return json.loads((target / "meta.json").read_text())


def read(folder: Path, split: str) -> list:
    """[(group of the file or None, png, COCO class, sketch class)] in the order of the index."""
    index = prepared_sets.read_index(folder, split)
    meta = json.loads((folder / "meta.json").read_text())
    found = []
    for s, shard in enumerate(index.shards.tolist()):
        serialized = list(tf.data.TFRecordDataset(str(folder / shard)))
        if not serialized:
            continue
        parsed = records.SketchRecord.parse(tf.stack(serialized))
        groups = index.block_class[index.block_shard == s].tolist()
        group = index.classes[groups[0]] if groups[0] >= 0 else None
        assert len(set(groups)) == 1
        for image, coco, sketch in zip(*(field.numpy() for field in parsed)):
            found.append((group, image, meta["coco_classes"][coco], meta["sketch_classes"][sketch]))
    return found


def pictures(strokes: list) -> list:
    return [sketches.encode_png(sketches.rasterise(mine)) for mine in strokes]


@pytest.mark.parametrize("kind", COMMANDS)
def test_every_drawing_once_in_the_right_order(source, tmp_path, small_buckets, kind):
    target = tmp_path / "set"
    meta = run(kind, source, target, "--n-chunks", "3", "--valid-n-chunks", "2")
    good = source[2]
    for split in SPLITS:
        found = read(target, split)
        expected = [
            (png, RELATION[name], name)
            for name in sorted(good)
            for png in pictures(good[name][split])
        ]
        assert sorted(f[1:] for f in found) == sorted(expected)
        assert meta[f"n_{split}_samples"] == len(found) == 4 * COUNTS[split]
        if kind == "indexed":
            assert all(group == coco for group, _, coco, _ in found)
            assert [c for c in COCO if c in {f[0] for f in found}] == ["cat", "cup", "light"]
        if split != "train":  # class by class, as in the files
            assert [f[1:] for f in found] == expected
    if kind == "indexed":
        cups = [sketch for group, _, _, sketch in read(target, "train") if group == "cup"]
        assert runs(cups) > 30  # two classes of 60: 61 expected when shuffled
    else:
        # 4 classes of 60 in random order: 240 * 3/4 + 1 = 181 runs expected, spread 7.
        assert runs([sketch for _, _, _, sketch in read(target, "train")]) > 150


def runs(names: list) -> int:
    return 1 + sum(a != b for a, b in zip(names, names[1:]))


def test_order_within_a_class_is_shuffled_too(source, tmp_path, small_buckets):
    run("mixed", source, tmp_path / "set")
    found = [png for _, png, _, sketch in read(tmp_path / "set", "train") if sketch == "mug"]
    original = pictures(source[2]["mug"]["train"])
    places = [original.index(png) for png in found]
    rising = sum(a < b for a, b in zip(places, places[1:]))
    assert 15 < rising < 45  # 59 when in order, 29.5 expected


def test_meta(source, tmp_path):
    meta = run("indexed", source, tmp_path / "set")
    assert meta["schema"] == prepared_sets.SCHEMA and meta["kind"] == "quickdraw-indexed"
    assert meta["coco_classes"] == COCO
    assert meta["sketch_classes"] == sorted(RELATION)
    assert meta["sketch_to_coco"] == RELATION
    assert meta["coco_classes_to_idx"] == {name: i for i, name in enumerate(COCO)}
    assert meta["coco_to_sketch"]["cup"] == ["coffee cup", "mug"]
    assert meta["image_size"] == 96
    for split, counts in meta["drawings"].items():
        assert sum(counts.values()) == meta[f"n_{split}_samples"] and "cup" in counts


def test_same_bytes_whatever_the_workers_other_with_another_seed(source, tmp_path):
    run("indexed", source, tmp_path / "a")
    run("indexed", source, tmp_path / "b", "--workers", "2")
    run("indexed", source, tmp_path / "c", "--seed", "1")
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert not [name for name in a if "spool" in name or "partial" in name]
    shards = [name for name in a if name.startswith("train/")]
    assert shards and all(a[name] != c[name] for name in shards)
    assert all(a[name] == c[name] for name in a if name.startswith(("valid/", "test/")))


def test_report_names_what_is_left_out(source, tmp_path, capsys):
    folder = tmp_path / "source"
    shutil.copytree(source[0], folder)
    (folder / "sun.npz").write_bytes((folder / "sun.npz").read_bytes()[:500])
    run("mixed", (folder, source[1]), tmp_path / "set")
    classes = {sketch for *_, sketch in read(tmp_path / "set", "train")}
    assert classes == {"cat", "coffee cup", "mug"}
    printed = capsys.readouterr().out
    assert "yoga.npz" in printed and "cat train #3" in printed and "cat valid #1" in printed
    assert "zigzag" not in printed  # not mapped: nobody asked for it
    assert "class file that cannot be read" in printed and "sun.npz" in printed
    report = json.loads((tmp_path / "set" / "report.json").read_text())
    assert report["class without a file"] == {"count": 1, "first": ["yoga.npz"]}


def test_restart_goes_on_and_gives_the_same_bytes(source, tmp_path, small_buckets, monkeypatch):
    run("mixed", source, tmp_path / "whole")
    wrote = SetWriter._write_part
    done = []

    def stumble(self, part, *more):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(part)
        return wrote(self, part, *more)

    with monkeypatch.context() as patch:
        patch.setattr(SetWriter, "_write_part", stumble)
        with pytest.raises(KeyboardInterrupt):
            run("mixed", source, tmp_path / "set")
    assert not (tmp_path / "set" / "meta.json").exists()
    with monkeypatch.context() as patch:  # what is spooled is not read again
        patch.setattr(quickdraw_drawings, "read_drawings", None)
        run("mixed", source, tmp_path / "set")
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")
    run("mixed", source, tmp_path / "set")  # complete: nothing to do
    with pytest.raises(UserError, match="other settings"):
        run("mixed", source, tmp_path / "set", "--seed", "5")
    with pytest.raises(UserError, match="other settings"):
        run("indexed", source, tmp_path / "set")


def test_other_picture_sizes(source, tmp_path):
    meta = run("mixed", source, tmp_path / "set", "--hparams", "image_size=32")
    assert meta["image_size"] == 32
    assert tf.io.decode_png(read(tmp_path / "set", "valid")[0][1]).shape == (32, 32, 1)


def test_wrong_sources(source, tmp_path):
    folder, relation, _ = source
    target = tmp_path / "set"
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="not a folder"):
        run("mixed", (tmp_path / "nowhere", relation), target)
    with pytest.raises(UserError, match="no drawings of the mapped classes"):
        run("mixed", (empty, relation), target)
    assert not target.exists()
    (empty / "sun.npz").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"no drawing .* can be used"):
        run("mixed", (empty, relation), target)
    assert not (target / "meta.json").exists()
    bad = tmp_path / "bad.json"
    for content in ("[]", "{}", '{"cat": 3}', "{"):
        bad.write_text(content)
        with pytest.raises(UserError, match=r"bad\.json"):
            run("mixed", (folder, bad), tmp_path / "other")
    with pytest.raises(UsageError, match="at most 4096"):
        run("mixed", source, tmp_path / "other", "--hparams", "image_size=100000")


def test_the_class_relationship_of_the_paper():
    classes = quickdraw_drawings.read_classes(quickdraw_drawings.CLASS_RELATIONSHIP)
    assert len(classes.sketch) == 128 and len(classes.coco) == 91
    assert classes.sketch_to_coco["alarm clock"] == "clock"
    assert classes.sketch_to_coco["yoga"] == "person"
    assert classes.meta()["coco_to_sketch"]["building-other"] == ["church", "hospital"]
