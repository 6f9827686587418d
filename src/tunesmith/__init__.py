"""Tunesmith: adapts a language model to your task, and shows with evidence whether that was worth it."""
