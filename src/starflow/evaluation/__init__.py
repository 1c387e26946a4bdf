"""Measurements of a model on any source of clips, and a page of them: see `starflow.evaluation.run.evaluate`."""
