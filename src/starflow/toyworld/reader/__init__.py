"""The checker: reads what a clip shows from its pixels alone."""
