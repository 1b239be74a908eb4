"""Checks of rows that are about to be published, as SQL: every row-level check shares one scan where it can."""
