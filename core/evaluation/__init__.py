"""Metrics: pure numerics, and the named metrics of `evaluate-metrics.py` built on them."""
