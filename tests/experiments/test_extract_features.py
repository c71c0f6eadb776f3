"""'extract-features' on a fake loader and model whose answers are known."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from core import features
from core.errors import EmptySplitError, UserError
from core.evaluation import picture_grids
from core.evaluation.embedded_split import Evaluation
from core.evaluation.query_protocols import DrawnScenes, main_protocol
from core.experiment import Trained
from core.hparams import parse
from core.model import ObjectScenes
from core.registry import MODELS
from experiments.extract_features import ExtractFeatures
from tests.core.evaluation.fakes import FakeModel, FakeScenes, Gallery
from tests.core.evaluation.test_whole_scenes import Pixels, Whole


class Splits(FakeScenes):
    """The scenes of the base class in every split but those that are empty, either because
    nothing is in it or because the loader says so."""

    name = "fake-scenes"

    def __init__(self, empty=(), refused=(), **more):
        super().__init__(**more)
        self.empty, self.refused = empty, refused

    def eval_batches(self, split, limit=None):
        if split in self.refused:
            raise EmptySplitError(f"the {split} split of /sets is empty")
        return super().eval_batches("empty" if split in self.empty else split, limit)


def extract(tmp_path, dataset, model=None, more=""):
    hparams = parse(f"results={tmp_path}{more}", ExtractFeatures.HParams)
    experiment = ExtractFeatures(hparams, tmp_path / "own")
    experiment.prepare()
    experiment.run(Trained(model or FakeModel(), dataset, "a-b", 7))


def test_a_file_a_split_with_everything_evaluation_has(tmp_path):
    extract(tmp_path, Splits(batch_size=6))
    names = [f"a_b_fake_scenes_{split}_feats.npz" for split in ("test", "train", "valid")]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == names
    file = features.read(tmp_path / names[1])
    protocols = features.feature_protocols(own_boxes=False)
    assert file.metadata == features.Metadata(
        model="fake-model", run="a-b", step=7, loader="fake-scenes", split="train", seed=0,
        weights="5e" * 32, vectors=("projection", "token"),
        vector="projection", own_boxes=False, protocols=protocols, mask_size=16,
        vocabulary=("a", "b", "c", "d", "e", "__image__"),
    )  # fmt: skip
    # The whole split as one batch, encoded by hand.
    dataset, model = FakeScenes(batch_size=50), FakeModel()
    (batch,) = dataset.eval_batches("train")
    own = batch.query_to_photo.numpy()
    drawn = DrawnScenes(
        batch.image_ids.numpy(),
        batch.query.obj_to_img.numpy(),
        batch.query.boxes.numpy(),
        own,
        batch.photo.boxes.numpy(),
    )
    sketches, paper = (
        model.embed_sketches(images).vector
        for images in (batch.sketches, tf.fill((1, 8, 8, 1), tf.constant(255, tf.uint8)))
    )
    shuffled = 0
    for number, protocol in enumerate(protocols):
        shown = dataset.queries(protocol, drawn)
        vectors = paper[[0] * len(shown.rows)]
        if protocol.sketches != "blank":
            vectors = sketches[shown.sketches]
            shuffled += (shown.sketches != shown.rows).any()
        owner = batch.query.obj_to_img.numpy()[shown.rows]
        outputs = model.contextualise(
            ObjectScenes(vectors, shown.boxes, owner, None, 20), with_masks=False
        )
        for key, expected in (
            ("projection", outputs.vectors["projection"]),
            ("token", outputs.vectors["token"]),
            ("boxes", shown.boxes),
            ("rows", shown.rows),
        ):
            key = f"query{number}_{key}"
            np.testing.assert_array_equal(file.arrays[key], np.float32(expected), err_msg=key)
    assert shuffled == 2
    vectors = model.embed_photos(batch.crops).vector
    owner = batch.photo.obj_to_img.numpy()
    photo = model.contextualise(ObjectScenes(vectors, batch.photo.boxes.numpy(), owner, None, 20))
    masks = file.arrays["photo_masks"]
    for key, expected in (
        ("image_ids", batch.image_ids),
        ("photo_projection", photo.vectors["projection"]),
        ("photo_token", photo.vectors["token"]),
        ("photo_classes", batch.photo.classes),
        ("photo_boxes", batch.photo.boxes),
        ("photo_obj_to_img", batch.photo.obj_to_img),
        ("query_classes", batch.query.classes),
        ("query_obj_to_img", batch.query.obj_to_img),
        ("query_to_photo", batch.query_to_photo),
    ):
        np.testing.assert_array_equal(file.arrays[key], expected, err_msg=key)
    np.testing.assert_array_equal(
        np.unpackbits(masks, axis=1).reshape(-1, 16, 16), batch.masks.numpy()
    )


def test_a_model_without_projection_is_ranked_by_its_token(tmp_path):
    class Unprojected(FakeModel):
        vector_names = ("token",)

        def contextualise(self, scenes, with_masks=True):
            sees = super().contextualise(scenes, with_masks)
            return sees._replace(vectors={"token": sees.vectors["projection"]})

    extract(tmp_path / "without", Splits(), Unprojected())
    extract(tmp_path / "with", Splits())
    without, own = (
        features.read(tmp_path / folder / "a_b_fake_scenes_test_feats.npz")
        for folder in ("without", "with")
    )
    assert "photo_projection" not in without.arrays
    np.testing.assert_array_equal(without.photo_vectors(), own.photo_vectors())


def test_each_object_is_encoded_once(tmp_path):
    model, dataset = FakeModel(), Splits(empty=("train", "valid"))
    extract(tmp_path, dataset, model, ",save_images=True")
    assert model.photos_encoded == sum(dataset.counts)
    assert model.masks_made == 0
    assert dataset.passes.count("test") == 1  # thumbnails took none of their own


def test_empty_splits_are_skipped_and_nothing_at_all_is_an_error(tmp_path, caplog, capsys):
    caplog.set_level("INFO")
    extract(tmp_path, Splits(empty=("train",), refused=("valid",)))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a_b_fake_scenes_test_feats.npz"]
    assert "no features of train: the train split of fake-scenes is empty" in caplog.text
    assert "no features of valid: the valid split of /sets is empty" in caplog.text
    assert capsys.readouterr().out == f"saved: {tmp_path}/a_b_fake_scenes_test_feats.npz\n"
    with pytest.raises(UserError, match="no split of fake-scenes has anything to extract"):
        extract(tmp_path, Splits(empty=("train", "test"), refused=("valid",)))


def test_thumbnails_show_photographs_and_compositions(tmp_path):
    dataset = Splits(empty=("train", "valid"))
    extract(tmp_path, dataset, more=",save_images=True")
    file = tmp_path / "a_b_fake_scenes_test_feats.npz"
    assert len(list(features.thumbnail_folder(file).iterdir())) == 2 * 20
    read, number = (
        features.read(file),
        features.feature_protocols(False).index(main_protocol(False)),
    )
    boxes, owners = read.arrays[f"query{number}_boxes"], read.arrays["query_obj_to_img"]
    first = 0
    for batch in dataset.eval_batches("test"):
        for row, image_id in enumerate(batch.image_ids.numpy().tolist()):
            with Image.open(features.thumbnail_path(file, image_id, "photo")) as photo:
                assert (photo.format, photo.size) == (
                    "JPEG",
                    (picture_grids.TILE, picture_grids.TILE),
                )
                # of one colour, as its image is
                np.testing.assert_allclose(np.asarray(photo), batch.images[row, 0, 0, 0], atol=3)
            own = np.flatnonzero(batch.query.obj_to_img == row)
            expected = picture_grids.scene_drawing(
                batch.sketches.numpy()[own], boxes[owners == first + row]
            )
            with Image.open(features.thumbnail_path(file, image_id, "sketch")) as drawing:
                assert drawing.format == "PNG"
                np.testing.assert_array_equal(drawing.convert("RGB"), expected)
        first += len(batch.image_ids)


def test_a_diverged_model_writes_nothing(tmp_path):
    with pytest.raises(UserError, match="step 7 are not finite"):
        extract(tmp_path, Splits(), FakeModel("broken"))
    assert list(tmp_path.iterdir()) == []


def test_only_models_of_scenes_fit():
    ExtractFeatures.check_fit(FakeModel)
    ExtractFeatures.check_fit(Pixels)
    message = "extract-features takes graph-attention, not multidomain-representation"
    with pytest.raises(UserError, match=message):
        ExtractFeatures.check_fit(MODELS["multidomain-representation"])


def test_a_model_that_sees_whole_scenes(tmp_path):
    extract(tmp_path, Whole(), Pixels(), ",save_images=True")
    read = features.read(tmp_path / "a_b_fake_scenes_test_feats.npz")
    assert read.metadata.vectors == ("pixels",)
    own = Evaluation(Pixels(), Whole(), "test")
    np.testing.assert_array_equal(read.photo_vectors(), own.photos.vectors["pixels"])
    for protocol in read.metadata.protocols:
        expected = own.queries(protocol).vectors["pixels"]
        np.testing.assert_array_equal(read.query_vectors(protocol), expected)


def test_a_gallery_has_photographs_alone(tmp_path):
    extract(tmp_path, Gallery(), more=",save_images=True")
    path = tmp_path / "a_b_fake_scenes_test_feats.npz"
    read = features.read(path, photos_only=True)
    expected = Evaluation(FakeModel(), FakeScenes()).photos.vectors["projection"]
    np.testing.assert_array_equal(read.photo_vectors(), expected)
    assert len(list(features.thumbnail_folder(path).iterdir())) == 20
    with pytest.raises(UserError, match="photographs alone, no sketched scenes to search with"):
        features.read(path)
