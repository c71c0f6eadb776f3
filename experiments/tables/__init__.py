"""Pages and tables over runs, and the ablations that fill them."""
