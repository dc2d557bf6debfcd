"""Measure and post-process masks."""
