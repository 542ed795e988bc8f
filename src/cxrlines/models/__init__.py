"""Classifiers of films: any timm backbone, four heads, and the safe passage of weights in and out."""

HEADS = ("gap", "gem", "concat", "attention")
"""Names of heads; here, so that a recipe is checked without torch."""
