"""An index of the drawn sample's photographs, and the server of it: for tests and benchmarks."""

import subprocess
import sys
from pathlib import Path

from core import hparams
from core.checkpoints import Checkpoints
from core.dataset import STANDARD_SIZES, Vocabulary
from core.registry import MODELS
from core.run import Run
from core.run_folder import HParamGroups, RunConfig, RunFolder
from dataloaders.scene_graph import PREDICATES
from prep_data.sample.objects import BACKGROUNDS, CLASSES
from search.index import PhotoIndex

ROOT = Path(__file__).resolve().parents[2]
MODEL, LOADER = "graph-attention", "coco-tfrecord"
# As small as the model gets.
SMALL = (
    "pretrained_e_model=shallow,image_size=32,pretrained_weights=none,pt_mdomain_id=01,"
    "mask_width=8,layout_d_arch=verysmall,gconv_num_layers=1,g_enc_n_layers=1,gconv_hidden_dim=64"
)


def save_run(folder):
    """A run of the sample's classes at its initial weights."""
    classes = [(each.name, each.category_id) for each in CLASSES]
    classes += [(name, id_) for name, id_, _ in BACKGROUNDS]
    names, ids = zip(*classes, ("__image__", 0))
    vocabulary = Vocabulary(names, PREDICATES, tuple(range(len(CLASSES))), ids=ids)
    base = hparams.BaseHParams(slack_config="")
    own = hparams.parse(SMALL, MODELS[MODEL].HParams)
    model = MODELS[MODEL](own, vocabulary, base.iterations, STANDARD_SIZES.mask)
    run = RunFolder(folder, MODEL, "SD01")
    Checkpoints(run.checkpoints).save(model, 3, True)
    gone = dict.fromkeys(("coco_dir", "qdraw_dir", "crops_dir"), "gone")
    groups = HParamGroups(hparams.to_dict(base), hparams.to_dict(own), {LOADER: gone})
    RunConfig(MODEL, LOADER, groups).write(run.config)
    return run.root


def write_index(folder, sample):
    """Index the photographs of val2017 with the boxes of their annotations, below a folder; return
    the folder of the index."""
    coco = sample / "coco-stuff"
    boxes = coco / "annotations/instances_val2017.json"
    run = Run.open(save_run(folder / "runs"))
    PhotoIndex.build(run, coco / "images/val2017", folder / "index", boxes=boxes)
    return folder / "index"


class Server:
    """A search server in a process of its own, at the same port whenever it is started."""

    def __init__(self, index):
        self._index, self._port = index, 0
        self.start()

    def start(self):
        command = ["-m", "search.serve", "--index", self._index, "--port", str(self._port)]
        self.process = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        self.url = self.process.stdout.readline().split()[-1]
        self._port = int(self.url.rpartition(":")[2])

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
