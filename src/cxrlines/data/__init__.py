"""What is on disk: tables, films, lines, folds, the store of decoded films, and the audit of all of them."""
