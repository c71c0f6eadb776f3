"""'generate-images' with a model and a generator whose answers are known."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from core.errors import EmptySplitError, UsageError, UserError
from core.evaluation.embedded_split import Evaluation
from core.evaluation.query_protocols import QueryProtocol
from core.experiment import Trained
from core.hparams import parse
from core.label_colours import PALETTE
from core.label_maps import label_maps
from dataloaders.batches import Stuff
from experiments.generate_images import GenerateImages
from SPADE import generators
from tests.core.evaluation.fakes import SIDE, FakeScenes
from tests.core.fakes import FakeData
from tests.experiments.analysis.test_scene_layouts import Maskless, Paints
from tests.experiments.test_extract_features import Splits

NAME = "SD01_fake_scenes_test_images"
# Of labels 0, none ("other"), 12, 91, 181; none (`__image__`).
IDS = (1, 183, 13, 92, 182, 0)
LABELS = np.array([0, 255, 12, 91, 181, 255])
ALL = "generate_from_image=True,generate_from_mixed=True,flipped_sketches=True," + (
    "generate_from_gt=True"
)
KINDS = ("sketch", "image", "mixed", "flipped", "gt")


def with_ids(dataset, ids=IDS):
    dataset.vocabulary = dataclasses.replace(FakeScenes.vocabulary, ids=ids)
    dataset.hparams = FakeData("sets")
    return dataset


class Generator:
    """Pictures of grey level label, one channel the instance; fails after some."""

    def __init__(self, identity="fake", most=10**6):
        self.identity, self.most, self.made = identity, most, 0
        self.checked = self.opened = False

    def check(self):
        self.checked = True

    def open(self):
        self.opened = True

    def generate(self, label, instance, photo):
        assert self.checked and self.opened and photo.shape == (256, 256, 3)
        assert label.dtype == instance.dtype == np.uint8
        if self.made == self.most:
            raise UserError("the generator at fake cannot be reached")
        self.made += 1
        return np.stack([label, instance, label], 2) / np.float32(127.5) - 1


@pytest.fixture
def generator(monkeypatch):
    """Stands for any that an hparam names, but none."""
    own = Generator()
    real = generators.find
    monkeypatch.setattr(
        generators, "find", lambda text, *_: own if text == generators.DEFAULT else real(text)
    )
    return own


def run(tmp_path, text="", dataset=None, model=None):
    experiment = GenerateImages(parse(text, GenerateImages.HParams), tmp_path)
    experiment.prepare()
    dataset = dataset or with_ids(Splits(batch_size=6))
    experiment.run(Trained(model or Paints(), dataset, "SD01", 7))
    return json.loads((tmp_path / f"{NAME}.json").read_text())


def pixels(folder, name):
    return np.asarray(Image.open(folder / f"{name}.png"))


@pytest.mark.parametrize("boxes", ["drawn", "predicted"])
def test_everything_of_every_scene(tmp_path, generator, boxes):
    content = run(tmp_path, f"{ALL},boxes={boxes}")
    assert (content["scenes"], content["made"], content["kinds"]) == (20, 20, list(KINDS))
    assert (tmp_path / content["pictures"][0]).is_file()
    assert generator.made == 20 * 5
    evaluation = Evaluation(Paints(), Splits(batch_size=50), "test")
    photos, queries = evaluation.photos, evaluation.queries(QueryProtocol())
    turned = Evaluation(Paints(), Splits(batch_size=50), "test", mirrored=True)
    sides = {
        "sketch": queries, "image": photos, "gt": photos, "flipped": turned.queries(QueryProtocol())
    }  # fmt: skip
    names = ["photo", *(f"{kind}{end}" for kind in KINDS for end in ENDS)]
    names = {f"{name}.png" for name in names} - {"image.png", "gt.png"}
    for n, image_id in enumerate(photos.image_ids):
        folder = tmp_path / NAME / str(image_id)
        assert {p.name for p in folder.iterdir()} == names | {"strip.jpg", "scene.json"}
        for kind, side in sides.items():
            rows = side.obj_to_img == n
            # Objects' vectors are their numbers; the masks that Paints makes of them, by hand.
            masks = np.zeros((rows.sum(), SIDE, SIDE))
            for mask, number in zip(masks, side.objects[rows, 0].astype(int)):
                mask[: 4 + number % 8, : SIDE // (1 if kind == "gt" else 2)] = 1
            predicted = boxes == "predicted" and kind != "gt"
            where = np.tile(np.float32([0, 0, 1, 1]), (len(masks), 1)) if predicted else (
                side.boxes[rows]
            )  # fmt: skip
            label, instance = label_maps(
                masks, where, LABELS[side.classes[rows]], np.zeros(len(masks), np.int32), 1
            )
            np.testing.assert_array_equal(pixels(folder, f"{kind}-labels"), label[0])
            np.testing.assert_array_equal(pixels(folder, f"{kind}-instances"), instance[0])
            np.testing.assert_array_equal(
                pixels(folder, f"{kind}-layout")[1:-1, 1:255], PALETTE[label[0].numpy()][1:-1, 1:-1]
            )
            np.testing.assert_array_equal(pixels(folder, f"{kind}-generated")[..., 0], label[0])
            np.testing.assert_array_equal(pixels(folder, f"{kind}-generated")[..., 1], instance[0])


ENDS = ("", "-labels", "-instances", "-layout", "-generated")


class Behind(Splits):
    """Two pieces of stuff behind each scene: class 4 in the left half, class 3 in the right."""

    def batch(self, scenes):
        n = len(scenes)
        halves = [[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]
        stuff = Stuff(
            tf.constant([4, 3] * n),
            tf.constant(halves * n),
            tf.ones((2 * n, SIDE, SIDE), tf.uint8),
            tf.repeat(tf.range(n), 2),
        )
        return super().batch(scenes)._replace(stuff=stuff)


def test_over_background_stuff(tmp_path, generator):
    run(tmp_path, "flipped_sketches=True,scenes=4", with_ids(Behind(batch_size=6)))
    queries = Evaluation(Paints(), Splits(batch_size=50), "test").queries(QueryProtocol())
    left = np.broadcast_to(np.arange(256) < 128, (256, 256))
    for folder in (tmp_path / NAME).iterdir():
        count = (queries.obj_to_img == int(folder.name) - 100).sum()
        for kind, first in (("sketch", left), ("flipped", ~left)):
            label, instance = (pixels(folder, f"{kind}-{what}") for what in ("labels", "instances"))
            ground = instance > count
            assert ground.sum() > 5000 and instance.all()
            np.testing.assert_array_equal(label[ground], np.where(first, 181, 91)[ground])
            np.testing.assert_array_equal((instance == count + 1)[ground], first[ground])


def test_mixed_scenes_show_crops_in_the_place_of_some_sketches(tmp_path, generator):
    class Numbers(Paints):
        """Remembers the vectors of the last scenes it made masks of."""

        def contextualise(self, scenes, with_masks=True):
            if with_masks:
                self.seen.append(np.asarray(scenes.vectors)[:, 0])
            return super().contextualise(scenes, with_masks)

        def embed_photos(self, crops):
            encoded = super().embed_photos(crops)
            encoded.vector = encoded.vector + 1000
            return encoded

    model = Numbers()
    model.seen = []
    run(tmp_path, "generate_from_mixed=True", model=model)
    sketches, both = model.seen
    crops = both >= 1000
    np.testing.assert_array_equal(both % 1000, sketches)  # of the same objects
    assert 5 < crops.sum() < len(crops) - 5
    differ = [
        not np.array_equal(pixels(folder, "sketch"), pixels(folder, "mixed"))
        for folder in sorted((tmp_path / NAME).iterdir())
    ]
    queries = Evaluation(Paints(), Splits(batch_size=50), "test").queries(QueryProtocol())
    shown = np.bincount(queries.obj_to_img[crops], minlength=20) > 0
    assert (shown[np.array(differ)]).all() and any(differ)


def test_whole_pictures_of_finished_scenes_are_kept(tmp_path, generator, capsys):
    folder = tmp_path / NAME
    run(tmp_path)
    assert generator.made == 20
    mark = folder / "100" / "mine"
    mark.touch()
    (folder / "103" / "photo.png").unlink()
    (folder / ".105.999999999.partial").mkdir()
    (folder / ".105.999999999.partial" / "photo.png").write_bytes(b"half")
    for path in (folder / "105").iterdir():
        path.unlink()
    with (folder / "106" / "photo.png").open("r+b") as file:
        file.truncate(100)
    content = run(tmp_path)
    assert (content["scenes"], content["made"], generator.made) == (20, 3, 21)
    assert "saved: 3 scenes" in capsys.readouterr().out and mark.is_file()
    assert {p.name for p in folder.iterdir()} == {str(100 + n) for n in range(20)}
    assert pixels(folder / "103", "photo").shape == (256, 256, 3)
    assert run(tmp_path)["made"] == 0


def damage(folder):
    (folder / "100" / "scene.json").unlink()
    (folder / "101" / "scene.json").write_text('{"settings"')
    (folder / "102" / "scene.json").write_text("[]")


def few(**options):
    dataset = with_ids(Splits(scenes=4, batch_size=3))
    dataset.hparams = FakeData(**options)
    return dataset


# What differs: (hparams of the second run, sentence on it, scenes it makes when it may).
OTHERS = {
    "the network": ("split=test", "4 scenes .*generator: fake there, another now", 4),
    "the data": ("split=test", "data.end: -1 there, 2 now", 4),
    "other scenes": ("scenes=1,boxes=predicted", "4 scenes", 1),
    "damage": ("split=test", "3 scenes .*scene.json cannot be read", 3),
}


@pytest.mark.parametrize("what", OTHERS)
def test_pictures_made_with_other_settings_are_not_replaced(tmp_path, generator, what, monkeypatch):
    folder, (text, sentence, count) = tmp_path / NAME, OTHERS[what]
    run(tmp_path, "", few())
    model, dataset = Paints(), few(end=2 if what == "the data" else -1)
    if what == "damage":
        damage(folder)
    if what == "the network":
        generator.identity = "another"
    before = contents(folder)
    with monkeypatch.context() as patch, pytest.raises(UserError, match=sentence) as error:
        patch.setattr(Evaluation, "embed", lambda self: pytest.fail("computed"))
        run(tmp_path, text, dataset, model)
    assert "another results" in str(error.value) and "replace=True" in str(error.value)
    assert contents(folder) == before
    for made in (count, 0):
        assert run(tmp_path, f"{text},replace=True", dataset, model)["made"] == made


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}


def test_layouts_alone_leave_pictures_as_they_are(tmp_path, generator):
    folder = tmp_path / NAME
    run(tmp_path, "generate_from_gt=True", few())
    before = contents(folder)
    assert run(tmp_path, "generator=none", few())["made"] == 0
    assert contents(folder) == before
    assert run(tmp_path, "generator=none,generate_from_image=True", few())["made"] == 4
    after = contents(folder)
    assert all(after[path] == before[path] for path in before if path.suffix == ".png")
    # The layouts that came along get their pictures; those there are not made again.
    assert run(tmp_path, "generate_from_image=True", few())["made"] == 4
    assert generator.made == 4 * 3
    files = json.loads((folder / "100" / "scene.json").read_text())["files"]
    assert {f"{kind}-generated.png" for kind in ("sketch", "image", "gt")} <= files.keys()


def test_a_picture_is_of_the_layout_beside_it(tmp_path, generator):
    run(tmp_path, "generator=none,scenes=1")
    (folder,) = (tmp_path / NAME).iterdir()
    Image.fromarray(np.full((256, 256), 7, np.uint8)).save(folder / "sketch-labels.png")
    record = json.loads((folder / "scene.json").read_text())
    record["files"]["sketch-labels.png"] = (folder / "sketch-labels.png").stat().st_size
    (folder / "scene.json").write_text(json.dumps(record))
    run(tmp_path, "scenes=1")
    assert (pixels(folder, "sketch-generated")[..., 0] == 7).all()


def test_data_are_what_they_are_not_where_they_lie(tmp_path, generator):
    def dataset(name, text):
        (tmp_path / name).mkdir()
        (tmp_path / name / "meta.json").write_text(text)
        return few(set_dir=str(tmp_path / name))

    run(tmp_path, "scenes=2", dataset("here", "1"))
    assert run(tmp_path, "scenes=2", dataset("moved", "1"))["made"] == 0
    with pytest.raises(UserError, match=r"data\.set_dir: .* there, .* now"):
        run(tmp_path, "scenes=2", dataset("other", "2"))


def test_a_server_that_goes_down_costs_no_finished_scene(tmp_path, generator):
    generator.most = 3
    with pytest.raises(UserError, match="cannot be reached"):
        run(tmp_path)
    assert len(list((tmp_path / NAME).iterdir())) == 3
    generator.most = 10**6
    assert run(tmp_path)["made"] == 17


def test_a_server_that_is_down_is_told_before_a_model_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(
        generators,
        "find",
        lambda *_: generators.RemoteGenerator("http://127.0.0.1:9", start_seconds=0),
    )
    experiment = GenerateImages(parse("", GenerateImages.HParams), tmp_path)
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9 cannot be reached: .* start it with"):
        experiment.prepare()


def test_bad_input(tmp_path, generator):
    with pytest.raises(UsageError, match="is no address"):
        parse("generator=ftp://x", GenerateImages.HParams)
    with pytest.raises(UserError, match="no weights file"):
        run(tmp_path, "generator=/nowhere/weights.npz")
    with pytest.raises(UserError, match="have no COCO-Stuff ids"):
        run(tmp_path, dataset=Splits())
    with pytest.raises(EmptySplitError, match="empty"):
        run(tmp_path, "split=valid", dataset=with_ids(Splits(empty=("valid",))))
    with pytest.raises(UserError, match="has no masks: generate_from_gt"):
        run(tmp_path, "generate_from_gt=True", dataset=with_ids(Maskless()))
    truncated = tmp_path / "weights.npz"
    truncated.write_bytes(b"PK\x03\x04 half")
    with pytest.raises(UserError, match="is not a generator's weights file"):
        run(tmp_path, f"generator={truncated}")


def test_a_set_with_boxes_of_its_own_and_without_masks(tmp_path, generator):
    assert run(tmp_path, dataset=with_ids(Maskless(batch_size=6)))["made"] == 20
