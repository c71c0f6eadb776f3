"""A mirrored evaluation: everything in it is the mirror image of what it is in the plain one."""

import numpy as np
import tensorflow as tf

from core.evaluation import mask_metrics
from core.evaluation.embedded_split import Evaluation
from core.evaluation.query_protocols import QueryProtocol
from dataloaders import queries
from tests.core.evaluation.fakes import SIDE, FakeModel, FakeScenes


class Sided(FakeScenes):
    """Crops and sketches show the number of their object left and 100 more on the right; masks are
    the left quarter. Jitter is the real one."""

    def batch(self, scenes):
        batch = super().batch(scenes)
        right = tf.constant([0] * 4 + [100] * 4, tf.uint8)[None, None, :, None]
        masks = np.zeros(batch.masks.shape, np.uint8)
        masks[:, :, : SIDE // 4] = 1
        return batch._replace(
            crops=batch.crops + right, sketches=batch.sketches + right, masks=tf.constant(masks)
        )

    def queries(self, protocol, drawn):
        return queries.apply_protocol(protocol, drawn, self.seed)


def both():
    return (Evaluation(FakeModel(), Sided(), mirrored=turned) for turned in (False, True))


def test_photographs_are_turned():
    plain, mirrored = (each.photos for each in both())
    np.testing.assert_array_equal(mirrored.objects, plain.objects + 100)
    x0, y0, x1, y1 = plain.boxes.T
    np.testing.assert_allclose(mirrored.boxes, np.stack([1 - x1, y0, 1 - x0, y1], 1), atol=1e-6)
    assert not np.allclose(mirrored.boxes, plain.boxes, atol=0.1)
    np.testing.assert_array_equal(
        mask_metrics.unpack(mirrored.masks, SIDE),
        mask_metrics.unpack(plain.masks, SIDE)[:, :, ::-1],
    )


def test_a_query_is_turned_as_a_whole_after_all_that_is_drawn_for_it():
    plain, mirrored = both()
    for protocol in (QueryProtocol(), QueryProtocol("jittered", dropped=0.3)):
        one, other = plain.queries(protocol), mirrored.queries(protocol)
        np.testing.assert_array_equal(other.rows, one.rows)
        np.testing.assert_array_equal(other.objects, one.objects + 100)
        x0, y0, x1, y1 = one.boxes.T
        np.testing.assert_allclose(other.boxes, np.stack([1 - x1, y0, 1 - x0, y1], 1), atol=1e-6)
    jittered = mirrored.queries(QueryProtocol("jittered")).boxes
    assert not np.allclose(jittered, mirrored.queries(QueryProtocol()).boxes, atol=0.01)
    # What the model is shown are the turned boxes.
    mirrored = Evaluation(FakeModel("boxes"), Sided(), mirrored=True)
    query = mirrored.queries(QueryProtocol("jittered"))
    seen = [query.boxes[query.obj_to_img == n].max(0) for n in range(query.num_scenes)]
    np.testing.assert_array_equal(query.vectors["projection"], seen)


def test_evaluations_made_of_it_are_mirrored_too():
    mirrored = list(both())[1]
    assert mirrored.for_split("test").mirrored and mirrored.at_step(3).mirrored
