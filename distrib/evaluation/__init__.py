"""The independent witness: what is claimed of a model, measured apart from its training."""
