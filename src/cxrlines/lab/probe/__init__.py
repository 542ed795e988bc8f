"""How the quality probe is trained and measured."""
