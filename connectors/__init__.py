"""How to talk to a data store, and how to move rows: no Django, no Celery."""
