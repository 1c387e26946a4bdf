"""The invertible model: pure tensors in and out, single device, no I/O. Start with `starflow.flow.model`."""
