"""cxrlines reads the tubes and lines in a frontal chest radiograph."""

__version__ = "0.1.0"
