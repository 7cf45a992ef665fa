"""Evaluation: how robust a stored model is, measured apart from its training."""
