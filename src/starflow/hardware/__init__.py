"""Fitting a model to a machine: placement, quantization, parallelism, memory."""
