"""Photographs from layouts: a generator's weights, converted, and served."""  # noqa: N999
