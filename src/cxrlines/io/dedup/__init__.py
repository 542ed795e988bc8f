"""Duplicate films: `copies` of one picture, `twins` across collections and processings."""
