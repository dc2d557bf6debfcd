"""Provide processes, memory limits, atomic files, errors and configurations."""
