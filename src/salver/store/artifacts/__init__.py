"""Artifacts: the store that keeps them at any fsspec URL, and the cache of them on the server's disk."""
