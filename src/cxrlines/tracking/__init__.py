"""Experiment tracking: TensorBoard, CSV, MLflow, Neptune and Weights & Biases, at no cost to training."""
