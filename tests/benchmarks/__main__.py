"""python -m tests.benchmarks [--quick] [--only NAME ...]"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from core import commands
from prep_data.workers import usable_cores
from tests.benchmarks import data, evaluation, layouts, models, scale, search, serving, spade, start
from tests.benchmarks.harness import Row, Setting, markdown, peak_megabytes, run_part

BENCHES = {
    **search.BENCHES,
    **serving.BENCHES,
    **models.BENCHES,
    **evaluation.BENCHES,
    **data.BENCHES,
    **scale.BENCHES,
    **spade.BENCHES,
    **layouts.BENCHES,
    **start.BENCHES,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: only to see it work")
    usual = [name for name in BENCHES if name not in search.ON_REQUEST]
    parser.add_argument("--only", nargs="+", choices=sorted(BENCHES), default=usual)
    parser.add_argument("--folder", type=Path, default=Path("bench"), help="of data and results")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # run here, by the process that asked
    args = parser.parse_args()
    setting = Setting(args.quick, args.folder)
    if args.part:
        commands.keep_freed_memory()
        bench, part = args.part.split("/")
        numbers = BENCHES[bench].parts[part](setting)
        print(json.dumps({**peak_megabytes(), **numbers}, default=np.ndarray.tolist))
        return 0
    return run(setting, args.only)


def run(setting: Setting, names: list[str]) -> int:
    """Measure, print, save. Returns 1 when a bench failed, after running the others."""
    setting.folder.mkdir(parents=True, exist_ok=True)
    started, before = time.time(), os.getloadavg()
    rows: list[Row] = []
    numbers, failed = {}, []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            found = {part: run_part(name, part, setting) for part in BENCHES[name].parts}
        except RuntimeError as error:
            print(error, file=sys.stderr)
            failed.append(name)
            continue
        numbers[name] = found
        rows += BENCHES[name].rows(found)
    machine = {
        "cores": usable_cores(),
        "load_before": before,
        "load_after": os.getloadavg(),
        "seconds": time.time() - started,
        "quick": setting.quick,
        "failed": failed,
    }
    print(markdown(rows))
    print(
        f"\n{machine['cores']} cores, load average {before[0]:.1f} before and "
        f"{machine['load_after'][0]:.1f} after, {machine['seconds']:.0f} s"
        + (", QUICK sizes: no figures to quote" if setting.quick else "")
        + "\nCPU: user and system; quote its ratios, which other load hardly changes"
    )
    path = setting.folder / ("quick.json" if setting.quick else "results.json")
    report = {"machine": machine, "rows": [row._asdict() for row in rows], "numbers": numbers}
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"saved: {path}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
