"""Experiments beyond the README: one question about a model or a features file, one file each."""
