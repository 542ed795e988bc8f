"""A bundle evaluated against reference films."""
