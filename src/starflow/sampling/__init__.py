"""Inverting the flow. `sampler.sample` maps noise to latents; `solvers` invert one block."""
