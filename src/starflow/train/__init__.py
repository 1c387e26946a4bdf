"""Training: the loop with its checkpoints, and the training step of each model."""
