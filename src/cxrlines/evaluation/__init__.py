"""How good readers are: figures with intervals by patient, ensembles, and the report that shows them."""
