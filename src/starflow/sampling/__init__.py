"""How the flow is inverted. `sampler.sample` turns noise into latents; `solvers` invert one block."""
