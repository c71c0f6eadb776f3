"""`python -m tests.check_demo DIR`: fails unless a demo in DIR has really learned to search.

What is asserted is the margin over the controls, not a level: under jittered boxes the real
sketches must find photographs that blank ones do not, and masks must fit better than a full box
and than the mean mask of the class.
"""

import json
import sys
from pathlib import Path


def check(folder: Path) -> None:
    """folder: of `make demo`. AssertionError names the figure that falls short."""
    reports = sorted(
        (folder / "runs/graph-attention-SD01/evaluation").glob("coco-tfrecord-valid-step-*.json")
    )
    assert reports, f"{folder} has no evaluation of a demo"
    results = json.loads(reports[-1].read_text())["results"]

    def find(metric: str, **conditions: str) -> dict:
        rows = [
            row
            for row in results
            if row["metric"] == metric
            and all(row["labels"].get(key) == value for key, value in conditions.items())
        ]
        assert len(rows) == 1, f"{metric} {conditions}: {len(rows)} rows where one was expected"
        return rows[0]

    for metric in ("sbir-mAP", "sbir-top1", "sbir-top5"):
        real = find(metric, boxes="jittered", sketches="real")
        blank = find(metric, boxes="jittered", sketches="blank")
        low = real["controls"]["minus_blank_low"]
        print(f"{metric}, jittered: real {real['value']:.3f}, blank {blank['value']:.3f}")
        assert low > 0.1, f"{metric}: real sketches beat blank ones by only {low:.3f} or more"
    for view in ("photo", "sketch"):
        row = find("mask-iou", view=view)
        all_ones, mean = row["controls"]["all_ones"], row["controls"]["class_mean"]
        print(f"mask-iou, {view}: {row['value']:.3f}, ones {all_ones:.3f}, class mean {mean:.3f}")
        assert row["interval"][0] > all_ones + 0.05, f"{view} masks are no better than full boxes"
        assert row["interval"][0] > mean, f"{view} masks are no better than the mean of the class"


if __name__ == "__main__":
    check(Path(sys.argv[1]))
