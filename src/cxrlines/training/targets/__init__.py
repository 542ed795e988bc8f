"""Training targets and their losses."""
