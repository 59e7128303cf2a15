"""Bringing versions into the model store: uploads, the probe, and the store as its users see it."""
