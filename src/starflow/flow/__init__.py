"""The invertible model: functions of tensors, without I/O. Start with `starflow.flow.model`."""
