"""Counts and names of a report."""

from dataloaders.images import Problem
from prep_data.report import Report


def test_report_counts_and_names():
    report = Report()
    for i in range(7):
        report.add("bad", f"b{i}")
    report.extend([Problem("worse", "w")])
    other = Report()
    other.add("worse", "v", count=10)
    other.add("nothing")
    report.merge(other.to_dict())
    assert report.to_dict() == {
        "bad": {"count": 7, "first": ["b0", "b1", "b2", "b3", "b4"]},
        "worse": {"count": 11, "first": ["w", "v"]},
    }
    first, second = report.lines()
    assert first.split() == ["11", "worse:", "w,", "v,", "..."]
    assert second.split() == ["7", "bad:", "b0,", "b1,", "b2,", "b3,", "b4,", "..."]
