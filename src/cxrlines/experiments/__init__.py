"""Experiments that a command repeats: the recipe hotwater in small, and the tests of its write-up's claims."""
