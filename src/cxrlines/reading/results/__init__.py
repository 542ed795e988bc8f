"""Findings as text and as a drawing."""
