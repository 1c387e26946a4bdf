"""Measurements that any model and any source of clips allow, one in each module."""
