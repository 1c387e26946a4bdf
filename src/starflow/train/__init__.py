"""Training: the loop with its checkpoints, and one readable step per model."""
