"""What is written down: the run's folder, MLflow, and what a person at the terminal sees."""
