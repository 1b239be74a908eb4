"""Wiring: settings, urls, Celery, and the embedded stack."""
