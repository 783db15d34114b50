"""Training of the built-in model on the phantom."""
