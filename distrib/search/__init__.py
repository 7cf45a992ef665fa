"""The search over a training's fields: its space, its trials, its tables."""
