"""Benchmarks, experiments, cost estimates, the demo: used by their commands only."""
