"""Ensembles of predictions: means, fitted weights, sharpening, nearest neighbours."""
