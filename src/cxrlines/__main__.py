"""`python -m cxrlines`: the command line."""

from cxrlines.cli import main

main()
