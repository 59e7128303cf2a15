"""Repositories that were made for other systems, read as they stand."""
