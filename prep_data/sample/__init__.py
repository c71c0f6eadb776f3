"""A small learnable world, drawn in the public layouts: `python -m prep_data.sample`."""
