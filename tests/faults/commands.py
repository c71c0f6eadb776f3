"""Commands that faults strike, and what must hold of the folder each of them writes."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf

from core import checkpoints, features
from core.dataset import SPLITS
from core.errors import UserError
from core.run_folder import RunConfig, RunFolder, read_metrics
from dataloaders import prepared_sets
from prep_data.sample.__main__ import main as make_sample
from tests.dataloaders import tiny_sets
from tests.faults.harness import HPARAMS, LOADER, STAGE1, STAGE2, World, files_of

STEPS, SAFETY = 16, 2  # of a training, and between its checkpoints


class Command(abc.ABC):
    """A command that writes into a folder, and goes on there when it is run again."""

    name: str
    script: str

    def __init__(self, world: World) -> None:
        self.world = world

    @abc.abstractmethod
    def argv(self, folder: Path) -> list[str]:
        """Return the same flags for the first start and all others."""

    @abc.abstractmethod
    def check(self, folder: Path) -> int:
        """Return the steps lost; an error unless all that reads as complete is complete."""

    @abc.abstractmethod
    def result(self, folder: Path) -> Mapping[str, object]:
        """Return what must be equal to the undisturbed command's in the end."""

    def undisturbed(self) -> Path:
        """Return the folder of the undisturbed command."""
        return self.world.made_once(f"undisturbed-{self.name}", self.run)

    def run(self, folder: Path) -> None:
        """Run the command to its end; AssertionError when it fails."""
        ended = self.world.processes.run(self.script, self.argv(folder))
        assert ended.code == 0, ended.stderr[-2000:]

    def check_result(self, folder: Path) -> None:
        """AssertionError naming what differs from the undisturbed command's result."""
        found, expected = self.result(folder), self.result(self.undisturbed())
        differing = [
            name for name in found.keys() | expected.keys()
            if found.get(name) != expected.get(name)
        ]  # fmt: skip
        assert not differing, f"{min(differing)} differs, and {len(differing) - 1} more"

    def count_lines(self, function: str, call: int = 1) -> int:
        """Return how many lines that call of a function executes in an undisturbed command."""
        folder = self.world.free_path(f"count-{self.name}")
        return self.world.processes.count_lines(self.script, self.argv(folder), function, call)


class Training(Command):
    """A training of stage 1, with a checkpoint every SAFETY steps."""

    name, script, model, run_id, steps = "training", "train.py", STAGE1, "01", STEPS

    def __init__(self, world: World, data: str = "", more: str = "") -> None:
        """data: data hparams, of the tiny sets without any. more: of --base-hparams."""
        super().__init__(world)
        self.data = data or f"qdraw_dir={world.sets.quickdraw},crops_dir={world.sets.crops}"
        self.more = more

    def argv(self, folder: Path) -> list[str]:
        base = (
            f"batch_size=4,log_every=1,notify_every=1000,save_every=1000,safety_save={SAFETY},"
            f"iterations={self.steps},deterministic=true,autograph=false{self.more}"
        )
        slack = "" if "slack_config" in self.more else ",slack_config="
        return [
            self.model, "--data-loader", LOADER[self.model], "-o", str(folder),
            "--id", self.run_id, "--resume", "latest", "--hparams", HPARAMS[self.model],
            "--data-hparams", self.data, "--base-hparams", f"{base}{slack}",
        ]  # fmt: skip

    def run_folder(self, folder: Path) -> RunFolder:
        return RunFolder(folder, self.model, self.run_id)

    def check(self, folder: Path) -> int:
        run = self.run_folder(folder)
        own = checkpoints.Checkpoints(run.checkpoints)
        for step in own.steps():
            checkpoints.verify(own.path(step))
        if run.config.exists():
            RunConfig.read(run.config)
        done = max((line["step"] for line in read_metrics(run.metrics)), default=0)
        lost = done - max(own.steps(), default=0)
        assert lost <= SAFETY, f"{lost} steps lost"
        return max(lost, 0)

    def result(self, folder: Path) -> dict[str, object]:
        run = self.run_folder(folder)
        newest = checkpoints.Checkpoints(run.checkpoints).latest()
        reader = tf.train.load_checkpoint(str(newest / "ckpt"))
        variables = {
            name: reader.get_tensor(name).tobytes()
            for name in reader.get_variable_to_shape_map()
            if name != "_CHECKPOINTABLE_OBJECT_GRAPH"
        }
        losses = {f"step {line['step']}": line["losses"] for line in read_metrics(run.metrics)}
        return {**losses, **variables}


class SceneTraining(Training):
    """A training of stage 2, two steps long, in the folder of the undisturbed stage 1."""

    name, model, run_id, steps = "scenes", STAGE2, "S", 2

    def __init__(self, world: World) -> None:
        sets = world.sets
        super().__init__(
            world, f"coco_dir={sets.scenes},qdraw_dir={sets.indexed},crops_dir={sets.crops}"
        )

    def undisturbed(self) -> Path:
        out = Training(self.world).undisturbed()
        self.world.made_once("scenes", lambda _: self.run(out))
        return out


class Preparation(Command):
    """The preparation of a few drawn classes."""

    name, script = "preparation", "prep_data.quickdraw_to_tfrecord"

    def argv(self, folder: Path) -> list[str]:
        sizes = (
            "--train-images 2 --val-images 2 --drawings 12 --eval-drawings 6 --workers 0 "
            "--sl-train-pairs 1 --sl-test-pairs 1 --fs-pairs 1"
        )
        sample = self.world.made_once(
            "sample", lambda folder: make_sample(["--target-dir", str(folder), *sizes.split()])
        )
        return [
            "--dataset-dir", str(sample / "quickdraw"), "--target-dir", str(folder),
            "--workers", "0", "--n-chunks", "4",
        ]  # fmt: skip

    def check(self, folder: Path) -> int:
        try:
            prepared_sets.read_meta(folder, "quickdraw")
        except UserError:
            return 0  # it does not read as complete
        for split in SPLITS:
            tiny_sets.read_split(folder, split)
        return 0

    def result(self, folder: Path) -> dict[str, bytes]:
        return files_of(folder)


class Extraction(Command):
    """The extraction of features of all splits."""

    name, script = "extraction", "run-experiment.py"

    def argv(self, folder: Path) -> list[str]:
        out = SceneTraining(self.world).undisturbed()
        return [
            "extract-features", "--model-name", STAGE2, "--model-id", "S", "-o", str(out),
            "--id", "f", "--exp-hparams", f"results={folder}",
        ]  # fmt: skip

    def check(self, folder: Path) -> int:
        for path in folder.glob("*_feats.npz"):
            features.read(path)
        return 0

    def result(self, folder: Path) -> dict[str, bytes]:
        return files_of(folder)
