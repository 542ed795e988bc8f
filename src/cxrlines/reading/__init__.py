"""Inference: a bundle and a film in, findings out. Needs neither torch nor anything of training to be imported."""
