"""Definitions: what people configure."""
