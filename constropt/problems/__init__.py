"""Declared instances: attacks, distances, models. They stand on the rest of constropt, which knows nothing of them."""
