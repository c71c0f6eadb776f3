"""Layers with plain arguments; none reads hparams."""
