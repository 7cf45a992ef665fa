"""The commands: prepare, train, evaluate, export."""
