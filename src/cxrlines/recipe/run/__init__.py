"""A recipe carried out on data: planned into steps, trained, reported, exported."""
