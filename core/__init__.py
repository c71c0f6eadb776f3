"""Machinery that knows no model: registries, hparams, run folders, training, metrics."""

import os

# TensorFlow would log "Unable to register cuDNN factory" as an error at every start. What
# really fails reaches Python as an exception. The level is read once, when TensorFlow is loaded.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
