"""Recipes: a list of members, each a chain of stages; planned into steps, and the steps done."""
