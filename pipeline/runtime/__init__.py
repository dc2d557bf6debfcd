"""Shared by all that runs: processes, memory, whole files, errors, configurations."""
