"""Measurements that only toyworld allows, because what its clips show can be checked."""
