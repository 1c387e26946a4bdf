"""The names of the solvers and of their settings. This module loads without torch."""

SAMPLERS = ("sliding", "block-jacobi", "sequential", "published")
ON_UNCONVERGED = ("warn", "raise")
