"""What is on disk: films, tables, annotations, folds, the store of decoded films."""
