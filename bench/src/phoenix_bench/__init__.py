"""Benchmark this stack and its peers in one run on one machine."""
