"""Machinery that knows no model: registries, hparams, run folders, training, metrics."""

import os
import sys

if sys.platform == "win32":  # no file locks, no POSIX signals
    raise SystemExit("error: Scene Designer runs on Linux and macOS; on Windows, run it in WSL")

# TensorFlow would log "Unable to register cuDNN factory" as an error at every start. What
# really fails reaches Python as an exception. The level is read once, when TensorFlow is loaded.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
