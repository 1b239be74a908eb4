"""Definitions as one YAML file: written by `manage.py export`, read by `manage.py apply`."""
