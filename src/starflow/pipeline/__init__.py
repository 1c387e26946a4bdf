"""`StarFlowPipeline`: from a prompt to frames. Start with `starflow.pipeline.pipeline`."""
