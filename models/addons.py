"""The only import of TensorFlow Addons, so that leaving it is a change of one file."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # its end-of-life notice, at every import
    from tensorflow_addons.image import euclidean_dist_transform
    from tensorflow_addons.losses import giou_loss

__all__ = ["euclidean_dist_transform", "giou_loss"]
