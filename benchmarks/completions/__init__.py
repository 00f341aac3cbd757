"""Servers that benchmarks start in separate processes."""
