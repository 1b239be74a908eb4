"""Celery's door to look-ups."""

from __future__ import annotations

from typing import Any

from celery import shared_task

from pipelines import answers


@shared_task(name="pipelines.look_up", ignore_result=False, track_started=True)
def look_up(question: str) -> dict[str, Any]:
    return answers.answer(question)
