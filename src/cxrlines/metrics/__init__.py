"""Metrics with confidence intervals: numbers in, numbers out."""
