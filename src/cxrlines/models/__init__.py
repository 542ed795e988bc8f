"""Classifiers of films: any timm backbone, four heads, and the safe passage of weights in and out."""

HEADS = ("gap", "gem", "concat", "attention")
"""Names of heads; here, so that a recipe is checked without torch."""
DECODERS = ("unet", "separable")
"""Names of decoders, likewise."""
WEIGHTS = "weights:"
"""In an ONNX file of a bundle, begins the name of a constant whose values are in the safetensors file beside it, under
the rest of that name."""
