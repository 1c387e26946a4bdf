"""The names by which users choose solvers, in a module that loads without torch."""

SAMPLERS = ("sliding", "block-jacobi", "sequential")
ON_UNCONVERGED = ("warn", "raise")
