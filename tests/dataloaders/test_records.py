"""Records: round trips and hand-worked layouts."""

import numpy as np
import tensorflow as tf

from dataloaders import records


def test_sketches_round_trip():
    serialized = [records.SketchRecord.encode(b"png%d" % i, i, 10 + i) for i in range(3)]
    back = records.SketchRecord.parse(tf.constant(serialized))
    assert back.image.numpy().tolist() == [b"png0", b"png1", b"png2"]
    assert back.coco_class.numpy().tolist() == [0, 1, 2]
    assert back.sketch_class.numpy().tolist() == [10, 11, 12]


def test_crops_round_trip():
    big = 900_100_000_000  # crowd ids of COCO do not fit 32 bits
    back = records.CropRecord.parse(tf.constant([records.CropRecord.encode(b"jpg", 5, 9, big)]))
    assert [field.numpy().tolist() for field in back] == [[b"jpg"], [5], [9], [big]]


def test_scenes_round_trip_also_in_a_graph():
    rng = np.random.default_rng(0)
    masks = rng.random((3, 8, 8)) > 0.5
    first = records.SceneRecord.encode(
        b"j1", 7, [3, 4], np.arange(8) / 8, records.pack_masks(masks[:2]), [70, 71], [], [], b""
    )
    second = records.SceneRecord.encode(
        b"j2", 8, [5], np.arange(4) / 4, records.pack_masks(masks[2:]), [80],
        [1, 2], np.arange(8) / 16, records.pack_masks(masks[:2]),
    )  # fmt: skip
    for parse in (records.SceneRecord.parse, tf.function(records.SceneRecord.parse)):
        scenes = parse(tf.constant([first, second]))
        assert scenes.image_id.numpy().tolist() == [7, 8]
        assert scenes.obj_idx.to_list() == [[3, 4], [5]]
        assert scenes.annotation_ids.to_list() == [[70, 71], [80]]
        np.testing.assert_array_equal(scenes.boxes[0].numpy(), np.arange(8).reshape(2, 4) / 8)
        np.testing.assert_array_equal(scenes.boxes[1].numpy(), [[0, 0.25, 0.5, 0.75]])
        assert scenes.stuff_idx.to_list() == [[], [1, 2]]
        assert scenes.stuff_boxes.row_lengths().numpy().tolist() == [0, 2]
        np.testing.assert_array_equal(records.unpack_masks(scenes.masks, 8).numpy(), masks)
        np.testing.assert_array_equal(
            records.unpack_masks(scenes.stuff_masks, 8).numpy(), masks[:2]
        )


def test_mask_bits_by_hand():
    mask = np.zeros((1, 4, 4), np.uint8)
    mask[0, 0, 0] = mask[0, 1, 3] = mask[0, 2, 1] = 1
    # rows 0 and 1: 1000 0001 = 129; rows 2 and 3: 0100 0000 = 64
    assert records.pack_masks(mask) == bytes([129, 64])
    unpacked = records.unpack_masks(tf.constant([b"", bytes([129, 64])]), 4)
    assert unpacked.dtype == tf.uint8
    np.testing.assert_array_equal(unpacked.numpy(), mask)
    assert records.unpack_masks(tf.constant([b"", b""]), 4).shape == (0, 4, 4)
