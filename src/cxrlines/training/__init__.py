"""Training: one Lightning module for every stage of every recipe."""
