"""Retrieval: documents cut into chunks, an index of them on disk, and what is found in it."""
