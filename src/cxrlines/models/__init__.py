"""Classifiers of films: any timm backbone, four heads, and the safe passage of weights in and out."""
