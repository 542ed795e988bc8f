"""Duplicate films: the same picture in one set or in two, re-encoded, mirrored, turned or cropped."""
