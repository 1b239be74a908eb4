"""What others may want to know of definitions, in the transaction in which it happens."""

from __future__ import annotations

from django.dispatch import Signal

# Pipelines were paused; `pipelines` are their ids, `by` who did it or None. Their rows are locked.
paused = Signal()
# A pipeline has another revision than `before`; its row is locked.
revised = Signal()
