"""Strike real commands with faults, and write docs/reliability.md from what came of it:

    python -m tests.faults [--seed 0] [--folder faults] [--only PART ...] [--write FILE]

Outcomes of each part are kept in <folder>/outcomes, so that parts can be run one by one.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import core  # noqa: F401  (before TensorFlow: it sets how much that logs)
from tests.faults import page, plan
from tests.faults.harness import Processes
from tests.faults.world import Outcome, World


def main() -> int:
    """The exit code: 1 when something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("faults"), help="where to work")
    parser.add_argument("--only", nargs="*", choices=plan.PARTS, default=list(plan.PARTS))
    parser.add_argument("--write", type=Path, help="the page, of all outcomes in the folder")
    args = parser.parse_args()
    folder = args.folder.resolve()
    kept = folder / "outcomes"
    kept.mkdir(parents=True, exist_ok=True)
    with Processes(folder / "stderr") as processes:
        for part in args.only:
            # A stream of its own for each part, so that one alone draws what it draws among all.
            seed = 1000 * args.seed + list(plan.PARTS).index(part)
            world = World(folder, processes, seed)
            began, outcomes = time.monotonic(), []
            for outcome in plan.run(world, part, 1.0):
                _print(outcome)
                outcomes.append(outcome._asdict())
                content = {
                    "seed": args.seed,
                    "seconds": round(time.monotonic() - began, 1),
                    "outcomes": outcomes,
                }
                (kept / f"{part}.json").write_text(json.dumps(content, indent=1))
    every = page.read(folder)
    if args.write:
        args.write.write_text(page.make(every, folder))
    failed = [x for content in every.values() for x in content["outcomes"] if x["error"]]
    print(f"{len(failed)} of what must hold did not")
    return bool(failed)


def _print(outcome: Outcome) -> None:
    verdict = f"FAILED: {outcome.error}" if outcome.error else "held"
    where = outcome.where or "NOT STRUCK"
    print(f"{outcome.window:20} {outcome.fault:40} {where[:70]:70} {verdict}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
