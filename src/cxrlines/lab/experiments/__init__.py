"""The experiments of docs/experiments.md, repeatable."""
