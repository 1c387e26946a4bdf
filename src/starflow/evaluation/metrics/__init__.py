"""Measurements that need only a model and captioned clips, one in each module."""
