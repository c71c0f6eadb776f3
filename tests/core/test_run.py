"""core.run: a run opens without its data and encodes what evaluation encodes."""

import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from core.errors import UsageError, UserError
from core.evaluation.embedded_split import Evaluation
from core.evaluation.query_protocols import QueryProtocol
from core.run import Run
from tests.test_experiments import STAGE1, STAGE2, save_run

ROOT = Path(__file__).resolve().parents[2]
SPADE = "generator_width=2,spade_hidden=4,discriminator_width=4,perceptual_weight=0"


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory):
    """A folder with the run of stage 2 and nothing else: none of its data folders are there."""
    folder = tmp_path_factory.mktemp("alone") / f"{STAGE2}-SD01"
    shutil.copytree(world.out / folder.name, folder)
    config = folder / "config.json"
    config.write_text(config.read_text().replace(str(world.sets.scenes), "/nowhere/scenes"))
    return folder


@pytest.fixture(scope="module")
def run(alone):
    return Run.open(alone)


def rows(values, owners, scene):
    return np.asarray(values)[np.asarray(owners) == scene]


def test_encodes_what_evaluation_encodes(run, world):
    """Scenes through a loader and through arrays have equal vectors, scene vectors and masks."""
    dataset = Run.open(world.out / f"{STAGE2}-SD01").dataset()
    evaluation = Evaluation(run.model, dataset, "test", vectors=("token", "projection"))
    photos, queries = evaluation.photos, evaluation.queries(QueryProtocol())
    masks = evaluation.compared_masks("sketch")
    (batch,) = list(dataset.eval_batches("test", limit=4))
    images, graph = batch.images.numpy(), batch.photo
    boxes = [rows(graph.boxes, graph.obj_to_img, n) for n in range(len(images))]
    found = run.encode_photos(list(images), boxes)
    drawn = run.encode_sketched_scenes(
        [list(rows(batch.sketches, batch.query.obj_to_img, n)) for n in range(len(images))],
        [rows(batch.query.boxes, batch.query.obj_to_img, n) for n in range(len(images))],
        fit=False,
    )
    places = [photos.image_ids.tolist().index(i) for i in batch.image_ids.numpy().tolist()]
    for n, place in enumerate(places):
        for side, scene in ((photos, found[n]), (queries, drawn[n])):
            own = rows(side.objects, side.obj_to_img, place)
            np.testing.assert_allclose(scene.vectors, own, atol=1e-5)
            np.testing.assert_allclose(scene.token, side.vectors["token"][place], atol=1e-5)
            projection = side.vectors["projection"][place]
            np.testing.assert_allclose(scene.projection, projection, atol=1e-5)
            assert scene.class_probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
            assert np.linalg.norm(scene.embeddings, axis=1) == pytest.approx(1, abs=1e-4)
        solid = np.packbits(run.masks(drawn[n]) >= 0.5, axis=None)
        expected = rows(masks.predicted, masks.scenes, place).ravel()
        assert np.mean(np.unpackbits(solid) == np.unpackbits(expected)) > 0.99
    few = evaluation.masks_of(queries, np.flatnonzero(queries.query_to_photo >= 0)[[-1, 0]])
    assert np.mean(np.unpackbits(few) == np.unpackbits(masks.predicted[[-1, 0]])) > 0.99
    # A photograph is nearest to itself.
    assert [run.rank(scene, found)[0] for scene in found] == list(range(len(found)))


def test_pictures_of_any_kind_and_size(run):
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    boxes = np.array([[0.1, 0.1, 0.6, 0.7]])
    plain, pil = run.encode_photo(pixels, boxes), run.encode_photo(Image.fromarray(pixels), boxes)
    np.testing.assert_array_equal(plain.token, pil.token)
    grey = Image.fromarray(np.full((40, 30), 128, np.uint8))
    assert run.encode_photo(grey, boxes).token.shape == plain.token.shape

    # A drawing twice as large and elsewhere on its paper is the same sketch on the canvas.
    small, large = np.full((60, 60), 255, np.uint8), np.full((200, 300), 255, np.uint8)
    small[10:50, 10:50:39] = small[10:50:39, 10:50] = 0
    large[20:180, 120:280] = np.kron(small[10:50, 10:50], np.ones((4, 4), np.uint8))
    first, second = (run.encode_sketches([each], boxes) for each in (small, large))
    assert np.abs(first.vectors - second.vectors).max() < 0.2 * np.abs(first.vectors).max()


PHOTO, SKETCH = np.zeros((8, 8, 3), np.uint8), np.eye(8, dtype=np.uint8) * 200
BOX = [[0.1, 0.1, 0.5, 0.5]]
LINE = 255 - SKETCH


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("encode_photo", (PHOTO, [[0.1, 0.1, 1.5, 0.5]]), r"must be x0, y0, x1, y1 in \[0, 1\]"),
        ("encode_photo", (PHOTO, [[0.5, 0.1, 0.1, 0.5]]), "with x0 < x1"),
        ("encode_photo", (PHOTO, [[0.1, 0.1, np.nan, 0.5]]), r"must be x0, y0, x1, y1 in \[0, 1\]"),
        ("encode_photo", (PHOTO, np.zeros((0, 4))), "has 0 objects: give 1 to 8"),
        ("encode_photo", (PHOTO, BOX * 9), "has 9 objects: give 1 to 8"),
        ("encode_photo", (PHOTO, [0.1, 0.2, 0.3, 0.4]), r"must be numbers \(n, 4\)"),
        ("encode_photo", (PHOTO, [["a", "b", "c", "d"]]), r"must be numbers \(n, 4\)"),
        ("encode_photo", (PHOTO.astype(np.float32), BOX), r"is float32 \(8, 8, 3\): give uint8"),
        ("encode_photo", (PHOTO[..., 0], BOX), r"is uint8 \(8, 8\): give uint8 \(height"),
        ("encode_photo", ("a.jpg", BOX), "no NumPy array and no PIL image"),
        ("encode_photos", ([PHOTO], []), "1 photographs and boxes for 0"),
        ("encode_photo", (PHOTO,), "encodes objects: give their boxes"),
        ("encode_drawings", ([LINE],), "sees objects, not whole drawings"),
        ("encode_sketches", ([LINE], BOX, False), r"are \(8, 8\): with fit=False give"),
        ("encode_sketches", ([LINE, LINE], BOX), "has 2 sketches and 1 boxes"),
        ("encode_sketches", ([np.full((9, 9), 255, np.uint8)], BOX), "shows nothing"),
        ("encode_sketches", ([255 - LINE], BOX), "paper is not white: give dark lines on white"),
        ("encode_sketches", ([Image.new("F", (9, 9))], BOX), "a sketch of 32 bits a channel"),
        ("encode_photo", (Image.new("I", (9, 9)), BOX), "photograph 0 of 32 bits .*: give a whole"),
        ("encode_sketches", ([LINE / 255], BOX), r"is float64 \(8, 8\): give uint8"),
        ("encode_sketches", (["x"], BOX), "no NumPy array and no PIL image"),
        ("ranking_vectors", ([],), "give a list of one or more encoded scenes"),
    ],
)
def test_bad_input_is_one_sentence(run, method, arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        getattr(run, method)(*arguments)
    assert "\n" not in str(caught.value)


def test_folders_that_cannot_be_opened(alone, tmp_path, caplog):
    with pytest.raises(UserError, match=r"is no run: it has no config\.json"):
        Run.open(tmp_path)
    unfinished = shutil.copytree(alone, tmp_path / "unfinished")
    shutil.rmtree(unfinished / "checkpoints")
    with pytest.raises(UserError, match="has no checkpoint yet: train it until"):
        Run.open(unfinished)
    other = shutil.copytree(alone, tmp_path / "other")
    config = other / "config.json"
    config.write_text(config.read_text().replace('"schema": 1', '"schema": 7'))
    with pytest.raises(UserError, match="schema 7, but this version of the program reads schema 1"):
        Run.open(other)
    config.write_text((alone / "config.json").read_text().replace('"gconv_dim"', '"gconv_dims"'))
    with pytest.raises(UserError, match="unknown hparam 'gconv_dims'"):
        Run.open(other)

    # A damaged newest checkpoint: the one before, with a warning.
    damaged = shutil.copytree(alone, tmp_path / "damaged")
    newest = damaged / "checkpoints/step-00000009"
    shutil.copytree(damaged / "checkpoints/step-00000003", newest)
    (newest / "state.json").write_text("{")
    assert Run.open(damaged).step == 3
    assert f"the checkpoint {newest} is damaged" in caplog.text
    with pytest.raises(UserError, match="step-00000009 is damaged"):
        Run.open(damaged, newest)
    with pytest.raises(UserError, match=r"no such checkpoint folder: 9; name one .* or latest$"):
        Run.open(damaged, "9")
    with pytest.raises(UserError, match=r"has no state\.json; name a folder like <run>/[^ ]*$"):
        Run.open(damaged, tmp_path)


def test_an_hparam_added_since_has_its_default(alone, tmp_path, caplog):
    older = shutil.copytree(alone, tmp_path / "older")
    config = older / "config.json"
    text = re.sub(r'\s*"dropout": 0\.1,', "", config.read_text())
    assert text != config.read_text()
    config.write_text(text)
    with caplog.at_level(logging.INFO):
        assert Run.open(older).hparams.dropout == 0.1
    (notice,) = caplog.messages
    assert notice.endswith("is of an older version: dropout=0.1 by default")


def test_opening_again_and_again_leaves_nothing_behind(alone):
    policy = tf.keras.mixed_precision.global_policy().name
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    tokens = [
        Run.open(alone).encode_photo(PHOTO, BOX).token for _ in range(3)
    ]  # each run is released before the next is opened
    np.testing.assert_array_equal(tokens[0], tokens[2])
    assert tf.keras.mixed_precision.global_policy().name == policy
    assert (logging.getLogger().handlers, logging.getLogger().level) == (handlers, level)


def test_other_models_open_as_far_as_they_encode(world, tmp_path):
    objects = Run.open(world.out / f"{STAGE1}-01")
    scene = objects.encode_photo(PHOTO, BOX)
    assert scene.vectors.shape == (1, 256) and scene.token is scene.projection is None
    assert objects.encode_sketches([LINE], BOX).embeddings.shape == (1, 128)
    with pytest.raises(UsageError, match="makes no masks of scenes"):
        objects.masks(scene)
    with pytest.raises(UsageError, match="has no scene vectors to rank by"):
        objects.rank(scene, [scene])
    with pytest.raises(UsageError, match="does not take the batches of the loader"):
        objects.dataset("coco-tfrecord")

    coco = (world.sets.scenes, world.sets.indexed, world.sets.crops)
    save_run(tmp_path, "spade", "01", "coco-tfrecord", SPADE, coco)
    spade = Run.open(tmp_path / "spade-01")
    picture = spade.model.generate(np.zeros((1, 64, 64), np.uint8), np.zeros((1, 64, 64), np.uint8))
    assert picture.shape == (1, 64, 64, 3)
    with pytest.raises(UsageError, match="encodes no photographs and sketches"):
        spade.encode_photo(PHOTO, BOX)


def test_data_of_another_vocabulary_are_refused(world, tmp_path):
    opened = Run.open(world.out / f"{STAGE2}-SD01")
    with pytest.raises(UserError, match="was trained with other classes than the data has"):
        from tests.dataloaders import tiny_sets

        names = (*tiny_sets.THINGS[:-1], "zebra", "sky-other", "__image__")
        scenes = tiny_sets.write_scenes(tmp_path / "s", scenes=4, mask_side=16, vocabulary=names)
        crops = tiny_sets.write_crops(tmp_path / "c", vocabulary=names)
        opened.dataset(coco_dir=scenes, crops_dir=crops)


def test_the_page_of_python_runs_as_it_stands(world, tmp_path):
    """Every block of docs/python.md, one after the other, in a process of its own; its only output
    is what it prints."""
    (tmp_path / "runs").symlink_to(world.out)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (90, 120, 3), np.uint8)).save(tmp_path / "photograph.jpg")
    (tmp_path / "photographs").mkdir()
    for n in range(3):
        shutil.copy(tmp_path / "photograph.jpg", tmp_path / f"photographs/{n}.jpg")
    for name in ("left", "right"):
        Image.fromarray(LINE.repeat(6, 0).repeat(6, 1)).save(tmp_path / f"{name}.png")
    page = (ROOT / "docs/python.md").read_text()
    script = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    script += "\nassert order[0] in range(6) and vectors.shape[0] == 6 and masks.shape[0] == 2"
    script += "\nassert len(index) == 3 and len(alike) == 2 and len(guesses) == 2"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("graph-attention after 3 steps; ")
