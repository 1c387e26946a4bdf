"""Released checkpoints ⇄ folders for `StarFlowPipeline.from_pretrained`."""
