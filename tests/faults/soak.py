"""A training on the drawn sample that is killed every minute or so, against the undisturbed one:

    python -m tests.faults.soak [--minutes 20] [--every 60] [--seed 0] [--folder faults]
                                [--write docs/reliability.md]

The undisturbed run comes first and is kept in the folder, so it is there for another soak. How many
steps there are is measured: as many as the struck run takes about `--minutes` for.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import core  # noqa: F401  (before TensorFlow: it sets how much that logs)
from core.run_folder import read_metrics
from prep_data import cococrops_to_tfrecord, quickdraw_to_tfrecord
from prep_data.sample.__main__ import main as make_sample
from tests.faults import harness, page
from tests.faults.child import ROOT

IMAGES, BATCH = 400, 16
SAFETY = 50  # steps between checkpoints
START = 15.0  # seconds that a start costs, for the number of steps


class Soaked(harness.Training):
    """Stage 1 with small networks."""

    @property
    def argv(self) -> list[str]:
        base = (
            f"batch_size={BATCH},log_every=1,notify_every=100000,save_every=100000,"
            f"safety_save={SAFETY},iterations={self.steps},deterministic=true,slack_config="
        )
        argv = super().argv
        argv[argv.index("--base-hparams") + 1] = base
        return argv

    def start(self) -> subprocess.Popen:
        """A process of its own."""
        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / f"{self.run_id}.stderr").open("a") as stderr:
            return subprocess.Popen(
                [sys.executable, "train.py", *self.argv], cwd=ROOT, stderr=stderr
            )


def prepare(folder: Path) -> str:
    """Draws a sample, and prepares what stage 1 needs; the data hparams."""
    sample, crops, drawings = folder / "sample", folder / "crops", folder / "quickdraw"
    if not (crops / "meta.json").exists():
        sizes = f"--train-images {IMAGES} --val-images 40 --sl-train-pairs 1 --sl-test-pairs 1"
        make_sample(["--target-dir", str(sample), *sizes.split()])
        source = ["--dataset-dir", str(sample / "quickdraw"), "--target-dir", str(drawings)]
        quickdraw_to_tfrecord.main([*source, "--workers", "0"])
        source = ["--dataset-dir", str(sample / "coco-stuff"), "--target-dir", str(crops)]
        cococrops_to_tfrecord.main([*source, "--workers", "0", "--val-size", "20"])
    return f"qdraw_dir={drawings},crops_dir={crops}"


def pace(training: Soaked) -> float:
    """Seconds a step of a training, first steps left out."""
    times = [line["wall"] for line in read_metrics(training.run.metrics)]
    return (times[-1] - times[10]) / (len(times) - 11)


def undisturbed(training: Soaked) -> float:
    """Trains to the end; the seconds it took."""
    began = time.monotonic()
    if training.start().wait():
        raise SystemExit(f"the undisturbed run failed: see {training.out}")
    return time.monotonic() - began


def struck(training: Soaked, every: float, rng: random.Random) -> dict[str, float]:
    """Trains to the end, killed every `every` seconds, half of them less to half of them more."""
    kills, lost = 0, []
    began = time.monotonic()
    while True:
        process = training.start()
        try:
            code = process.wait(every * rng.uniform(0.5, 1.5))
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            lost.append(training.check_left(SAFETY))
            continue
        if code:
            raise SystemExit(f"a start failed with {code}: see {training.out}")
        return {
            "kills": kills,
            "lost": sum(lost),
            "most_lost": max(lost, default=0),
            "seconds": round(time.monotonic() - began, 1),
        }


def main() -> int:
    """The exit code: 1 when the two runs differ."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--every", type=float, default=60.0, help="seconds between kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("faults"))
    parser.add_argument("--write", type=Path, help="the page, of all outcomes in the folder")
    args = parser.parse_args()
    folder = args.folder.resolve()
    soak = folder / "soak"
    data = prepare(soak)
    rng = random.Random(args.seed)
    steps_file = soak / f"steps-{args.minutes:g}-{args.every:g}.txt"
    if not steps_file.exists():
        probe = Soaked(soak / f"probe-{os.getpid()}", "01", data, 60)
        undisturbed(probe)
        # Of each interval between kills the start does no steps, nor do those that are lost.
        useful = 60 * args.minutes * max(0.2, 1 - START / args.every)
        steps_file.write_text(str(max(2 * SAFETY, int(useful / pace(probe)))))
    steps = int(steps_file.read_text())
    whole = Soaked(soak / f"undisturbed-{steps}", "01", data, steps)
    seconds = soak / f"undisturbed-{steps}.txt"
    if not seconds.exists():
        seconds.write_text(str(undisturbed(whole)))
    training = Soaked(soak / f"struck-{steps}-{os.getpid()}", "01", data, steps)
    numbers = struck(training, args.every, rng)
    error = ""
    try:
        training.check_same(whole)
    except AssertionError as difference:
        error = str(difference)[:300]
    content = {
        "minutes": args.minutes, "every": args.every, "seed": args.seed, "model": harness.STAGE1,
        "images": IMAGES, "steps": steps, "batch_size": BATCH, "safety_save": SAFETY, **numbers,
        "undisturbed_seconds": round(float(seconds.read_text()), 1), "error": error,
    }  # fmt: skip
    (folder / "outcomes").mkdir(exist_ok=True)
    (folder / "outcomes" / "soak.json").write_text(json.dumps(content, indent=1))
    print(page.soak_sentence(content))
    if args.write:
        args.write.write_text(page.make(page.read(folder), folder))
    return bool(error)


if __name__ == "__main__":
    sys.exit(main())
