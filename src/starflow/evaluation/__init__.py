"""What a model is worth, measured on any source of clips and shown on a page: `starflow.evaluation.run.evaluate`."""
