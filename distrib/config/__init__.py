"""What is asked for: job files, strict and resolved."""
