"""`python -m tests.check_demo DIR`: fails unless a demo in DIR has really learned to search, and to
make pictures of layouts.

What is asserted is the margin over the controls, not a level: under jittered boxes the real
sketches must find photographs that blank ones do not, and masks must fit better than a full box
and than the mean mask of the class. Generated pictures must be much nearer to their photographs
than those of other scenes.
"""

import json
import sys
from pathlib import Path


def results(folder: Path, name: str) -> list:
    """The results of the newest evaluation of that loader and split."""
    reports = sorted((folder / "runs/graph-attention-SD01/evaluation").glob(f"{name}-step-*.json"))
    assert reports, f"{folder} has no evaluation {name}"
    return json.loads(reports[-1].read_text())["results"]


def find(rows: list, metric: str, **conditions: str) -> dict:
    """The one row of a metric under these conditions."""
    found = [
        row
        for row in rows
        if row["metric"] == metric
        and all(row["labels"].get(key) == value for key, value in conditions.items())
    ]
    assert len(found) == 1, f"{metric} {conditions}: {len(found)} rows where one was expected"
    return found[0]


def check(folder: Path) -> None:
    """folder: of `make demo`. AssertionError names the figure that falls short."""
    scenes = results(folder, "coco-tfrecord-valid")
    paired = results(folder, "sketchycoco-tf-test")
    from_memory = results(folder, "sketchycoco-sl-test")
    for rows, metric, boxes, margin in (
        (scenes, "sbir-mAP", "jittered", 0.1),
        (scenes, "sbir-top1", "jittered", 0.1),
        (scenes, "sbir-top5", "jittered", 0.1),
        (paired, "sbir-mAP-test", "jittered", 0.1),
        (paired, "sbir-top1-test", "jittered", 0.1),
        (from_memory, "sbir-mAP-test", "own", 0.05),
        (from_memory, "sbir-top5-test", "own", 0.05),
    ):
        real = find(rows, metric, boxes=boxes, sketches="real")
        blank = find(rows, metric, boxes=boxes, sketches="blank")
        low = real["controls"]["minus_blank_low"]
        print(f"{metric}, {boxes}: real {real['value']:.3f}, blank {blank['value']:.3f}")
        assert low > margin, f"{metric}: real sketches beat blank ones by only {low:.3f} or more"
    for view in ("photo", "sketch"):
        row = find(scenes, "mask-iou", view=view)
        all_ones, mean = row["controls"]["all_ones"], row["controls"]["class_mean"]
        print(f"mask-iou, {view}: {row['value']:.3f}, ones {all_ones:.3f}, class mean {mean:.3f}")
        assert row["interval"][0] > all_ones + 0.05, f"{view} masks are no better than full boxes"
        gap = row["controls"]["minus_class_mean_low"]
        assert gap > 0, f"{view} masks are no better than the mean of the class"
    figures = (folder / "runs/spade-01/figures.jsonl").read_text().splitlines()
    row = find(json.loads(figures[-1])["figures"], "picture-error", measure="l1")
    other = row["controls"]["other_scene"]
    print(f"picture-error: {row['value']:.3f}, pictures of other scenes {other:.3f}")
    assert row["interval"][1] < 0.75 * other, "generated pictures do not fit their photographs"
    scenes = list((folder / "images/SD01_coco_tfrecord_test_images").glob("*/scene.json"))
    assert scenes, "no pictures were generated"
    for scene in scenes:
        for kind in ("sketch", "flipped", "gt"):
            assert (scene.parent / f"{kind}-generated.png").is_file(), f"{scene.parent}: no {kind}"
    index = json.loads((folder / "index/photos/index.json").read_text())
    photographs = list((folder / "sample/coco-stuff/images/val2017").iterdir())
    assert len(index["files"]) == len(photographs), "not all photographs are in the index"
    page = (folder / "report.html").read_text(encoding="utf-8")
    for loader in ("coco-tfrecord", "sketchycoco-tf"):
        assert f"Evaluation on {loader}" in page, f"the report has no evaluation on {loader}"
    for picture in ("generated-pictures-coco-tfrecord", "SD01_coco_tfrecord_test_images_1"):
        assert picture in page, f"the report does not show {picture}"


if __name__ == "__main__":
    check(Path(sys.argv[1]))
