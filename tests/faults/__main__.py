"""Strike commands of this project with faults, and write docs/reliability.md from what came of it.

    python -m tests.faults [--seed 0] [--folder faults] [--only PART ...] [--write FILE]

The outcomes of each part are kept in <folder>/outcomes, so that parts can be run one by one.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults import damage, page, strikes
from tests.faults.harness import Outcome, Processes, World

PARTS: dict[str, Callable[[World, float], Iterator[Outcome]]] = {
    "kills": strikes.kills_in_training,
    "full": strikes.full_disks_in_training,
    "signals": strikes.signals_in_training,
    "sets": strikes.faults_in_sets,
    "features": strikes.faults_in_features,
    "checkpoints": damage.damaged_checkpoints,
    "files": damage.damaged_files,
    "two": damage.two_on_one_id,
    "slack": damage.slack_in_trouble,
    "generator": damage.generator_dies,
}


def main() -> int:
    """Return the exit code: 1 when something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("faults"), help="where to work")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--write", type=Path, help="the page, of all outcomes in the folder")
    args = parser.parse_args()
    folder = args.folder.resolve()
    (folder / "outcomes").mkdir(parents=True, exist_ok=True)
    with Processes(folder / "stderr") as processes:
        for part in args.only:
            # A stream of its own for each part, so that one alone draws what it draws among all.
            world = World(folder, processes, 1000 * args.seed + list(PARTS).index(part))
            began, outcomes = time.monotonic(), []
            for outcome in run_part(world, part):
                verdict = f"FAILED: {outcome.error}" if outcome.error else "held"
                print(outcome.window, outcome.fault, outcome.left, verdict, sep="  ", flush=True)
                outcomes.append(outcome._asdict())
            seconds = round(time.monotonic() - began, 1)
            content = {"seed": args.seed, "seconds": seconds, "outcomes": outcomes}
            (folder / "outcomes" / f"{part}.json").write_text(json.dumps(content, indent=1))
    files = sorted((folder / "outcomes").glob("*.json"))
    contents = {path.stem: json.loads(path.read_text()) for path in files}
    if args.write:
        args.write.write_text(page.page(contents))
    failed = [x for content in contents.values() for x in content["outcomes"] if x["error"]]
    print(f"{len(failed)} of what must hold did not")
    return bool(failed)


def run_part(world: World, part: str, share: float = 1.0) -> Iterator[Outcome]:
    """Yield the outcomes of a part; an error that ends it is the last. share: of the faults."""
    try:
        yield from PARTS[part](world, share)
    except Exception as error:
        yield Outcome(part, part, "", False, error=f"{type(error).__name__}: {error}"[:900])


if __name__ == "__main__":
    sys.exit(main())
