"""'extract-features' on a fake loader and model whose answers are known."""

import numpy as np
import pytest
from PIL import Image

from core import features
from core.errors import EmptySplitError, UserError
from core.evaluation import picture_grids
from core.evaluation.embedded_split import Evaluation
from core.evaluation.picture_grids import TILE
from core.evaluation.query_protocols import QueryProtocol, main_protocol
from core.experiment import Trained
from core.registry import MODELS
from experiments.extract_features import ExtractFeatures
from tests.core.evaluation.fakes import FakeModel, FakeScenes, Gallery
from tests.core.evaluation.test_whole_scenes import Pixels, Whole
from tests.experiments.running import run_experiment


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
    trained = Trained(model or FakeModel(), dataset, "a-b", 7)
    run_experiment(ExtractFeatures, tmp_path / "own", f"results={tmp_path}{more}", trained)


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
    own = Evaluation(FakeModel(), FakeScenes(batch_size=50), "train")
    expected = {"query_" + name: getattr(own.queries(QueryProtocol()), name)
                for name in ("classes", "obj_to_img")}  # fmt: skip
    expected["query_to_photo"] = own.queries(QueryProtocol()).query_to_photo
    for name in ("classes", "boxes", "obj_to_img", "masks"):
        expected[f"photo_{name}"] = getattr(own.photos, name)
    sides = {"photo": own.photos, "photo_random": own.photos_with_directions("random")}
    for number, protocol in enumerate(protocols):
        queries = sides[f"query{number}"] = own.queries(protocol)
        expected[f"query{number}_rows"] = queries.rows
        expected[f"query{number}_boxes"] = queries.boxes
    for side, scenes in sides.items():
        expected |= {f"{side}_{name}": found for name, found in scenes.vectors.items()}
    expected["image_ids"] = own.photos.image_ids
    assert file.arrays.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(file.arrays[name], np.float32(values), err_msg=name)


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
    read = features.read(file)
    number = read.metadata.protocols.index(main_protocol(False))
    boxes, owners = read.arrays[f"query{number}_boxes"], read.arrays["query_obj_to_img"]
    first = 0
    for batch in dataset.eval_batches("test"):
        for row, image_id in enumerate(batch.image_ids.numpy().tolist()):
            with Image.open(features.thumbnail_path(file, image_id, "photo")) as photo:
                assert (photo.format, photo.size) == ("JPEG", (TILE, TILE))
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
    message = "takes graph-attention or whole-scene, not multidomain-representation"
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
