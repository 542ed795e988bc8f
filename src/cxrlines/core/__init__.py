"""Types and arithmetic that everything rests on: no torch, no disk formats but whole files."""
