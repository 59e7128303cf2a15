"""Graphs: chains of models that are served as one model."""
