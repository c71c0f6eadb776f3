"""Flags of all preparation commands."""

import os

import pytest

from core.errors import UsageError, UserError
from prep_data import flags
from prep_data.coco_classes import CropHParams


@pytest.mark.parametrize(("cores", "expected"), [(3, 3), (384, flags.MAX_WORKERS)])
@pytest.mark.parametrize("system", ["Linux", "macOS"])
def test_as_many_workers_as_cores(monkeypatch, system, cores, expected):
    if system == "macOS":  # it has no such function
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: cores)
    else:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    parser = flags.base_parser("x", "", 5, CropHParams)
    assert parser.parse_args(["--dataset-dir", "d", "--target-dir", "t"]).workers == expected


def test_flags_out_of_range(tmp_path):
    parser = flags.base_parser("x", "", 5, CropHParams)

    def check(*words):
        args = parser.parse_args(["--dataset-dir", str(tmp_path), "--target-dir", "t", *words])
        flags.check_base_args(args)
        return args

    assert flags.chunks(check("--n-chunks", "7")) == {"train": 7, "valid": 1, "test": 1}
    for flag in ("--n-chunks", "--valid-n-chunks", "--test-n-chunks"):
        for wrong in ("0", "10001", "1" + "0" * 400):
            with pytest.raises(UsageError, match=f"{flag} is {wrong}: it must be 1 to 10000"):
                check(flag, wrong)
    for flag, wrong in (("--workers", "-1"), ("--workers", "5000"), ("--seed", "-1")):
        with pytest.raises(UsageError, match=f"{flag} is {wrong}: it must be 0 to"):
            check(flag, wrong)
    with pytest.raises(UserError, match="is not a folder"):
        check("--dataset-dir", str(tmp_path / "none"))
