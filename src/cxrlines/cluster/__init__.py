"""Training and bulk reading on a Ray cluster."""
