"""Reading new films: the bundle that holds a trained ensemble, and the engine that runs it."""
