"""Machinery that knows no model: registries, hparams, run folders, training, metrics."""

import os

# TensorFlow's C++ messages would drown ours: "Unable to register cuDNN factory" is logged as an
# error at every start and means nothing; what really fails reaches Python as an exception. The
# level is read once, when TensorFlow is loaded, and every entry point imports `core` before that.
# A value that the user has set wins.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
