"""The models, found by name through core.registry.MODELS.

SHAPE LEGEND (binding for every module of this package)

    N   scenes in a batch
    O   photo objects in the batch, all scenes together
    Q   query objects in the batch (sketches); a side of its own, Q need not equal O
    T   triples (relations) of one side
    S   slots of a scene in the Transformer: 1 scene token + max(8, most objects of a scene)
    D   width of object vectors (256)
    E   width of the common embedding (128)
    M   side of a mask in pixels (64)
    K   classes of the vocabulary
    B   batch size of anything that is not a scene
    H=W side of crops and sketches in pixels (96)

    boxes       float32 (O, 4) [x0, y0, x1, y1] in [0, 1] of the image
    classes     int32 (O,), index into the vocabulary
    obj_to_img  int32 (O,), ascending; obj_to_img[o] = n: object o is in scene n
    triples     int32 (T, 3); [s, p, o]: object s stands in relation p to object o of the same side

Photographs and sketches arrive as uint8; inside, photographs are float32 in [-1, 1], sketches
float32 in [0, 1] (1 = white paper). Everything else is float32.
"""

import core  # noqa: F401  (before a module of this package loads TensorFlow: see core/__init__.py)
