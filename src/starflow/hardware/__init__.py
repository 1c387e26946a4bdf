"""Fitting a model to a machine: placement, quantization, parallelism and memory estimates."""
