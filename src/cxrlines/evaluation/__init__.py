"""Evaluation of predictions and of bundles, ensembling, calibration fits and the report."""
