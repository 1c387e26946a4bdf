"""Inverting the flow. `sampler.sample` turns noise into latents; `solvers` invert one block."""
