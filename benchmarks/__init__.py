"""Benchmarks: one script for each question. Run them from the root of the repository."""
