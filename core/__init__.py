"""Machinery that knows no model: registries, hparams, run folders, training, metrics."""
