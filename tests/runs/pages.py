"""What tests of pages and sockets need: people who look and people who act, and runs to look at."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from pipelines.models import Pipeline
from runs import services
from runs.models import Attempt, PartLoad, Run, Skip, Trigger
from runs.states import RunStatus, Step
from tests.definitions import destination, make_pipeline, operator, source  # noqa: F401

VIEW = ("view_connection", "view_pipeline", "view_run", "view_logline")
OPERATE = ("add_pipeline", "change_pipeline", "run_pipeline")


def allow(user: User, *codenames: str) -> User:
    user.user_permissions.add(*Permission.objects.filter(codename__in=codenames))
    return user


def logged_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def viewer(db: None) -> User:
    return allow(User.objects.create_user("vera", password="correct horse"), *VIEW)


@pytest.fixture
def viewer_client(viewer: User) -> Client:
    return logged_in(viewer)


@pytest.fixture
def operator_client(operator: User) -> Client:  # noqa: F811
    return logged_in(allow(operator, *VIEW, *OPERATE))


@pytest.fixture(autouse=True)
def fresh_totals() -> None:
    """Totals of the dashboard are kept for some seconds."""
    cache.clear()


@pytest.fixture
def make_run(operator: User) -> Callable[..., Run]:  # noqa: F811
    """A run of a pipeline, as its state says it must be."""

    def make(pipeline: Pipeline, status: str = RunStatus.SUCCEEDED, **changes: Any) -> Run:
        now = timezone.now()
        values: dict[str, Any] = {"trigger": Trigger.MANUAL, "requested_by": operator}
        if status not in (RunStatus.QUEUED, RunStatus.HELD):
            values |= {"started_at": now - timedelta(seconds=3), "attempt": 1, "rows": 1234567, "bytes": 5_000_000}
        if status in (RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED):
            values |= {"finished_at": now}
        if status == RunStatus.RUNNING:
            values |= {"lease_until": now + timedelta(minutes=1), "token": 1, "worker": "worker@here"}
        run = Run.objects.create(pipeline=pipeline, revision=pipeline.revision, status=status, **{**values, **changes})
        if run.started_at:
            Attempt.objects.create(run=run, number=1, token=1, worker="worker@here", outcome="")
        return run

    return make


def write(run: Run, *messages: str, level: str = "info") -> None:
    services.write_lines(run.pk, [services.Line(level, message) for message in messages], attempt=run.attempt)


def divide(run: Run, *parts: dict[str, Any] | str, step: str = Step.PARTS, **changes: Any) -> list[PartLoad]:
    """Makes a run one in parts, of 1,000 rows each; each part is a status, or all that is to be known of it."""
    changes = {"step": step, "generation": 1, "worker": "", "lease_until": None, "phase": "loading", **changes}
    Run.objects.filter(pk=run.pk).update(**changes)
    Attempt.objects.filter(run=run, number=1).update(outcome="divided", ended_at=timezone.now())
    PartLoad.objects.filter(run=run).delete()
    told = [{"status": part} if isinstance(part, str) else part for part in parts]
    now = timezone.now()
    of_status: dict[str, dict[str, Any]] = {
        "running": {"worker": "worker@here:1:7", "lease_until": now + timedelta(minutes=1), "rows": 500},
        "done": {"worker": "worker@there:2:8", "finished_at": now, "rows": 1000},
    }
    return PartLoad.objects.bulk_create(
        PartLoad(
            run=run,
            number=number,
            **{
                "name": f"day {number}",
                "estimated_rows": 1000,
                "started_at": now - timedelta(seconds=10),
                **of_status.get(part.get("status", ""), {}),
                **part,
            },
        )
        for number, part in enumerate(told)
    )


def skip(pipeline: Pipeline, run: Run | None = None) -> Skip:
    now = timezone.now()
    return Skip.objects.create(
        pipeline=pipeline, schedule=pipeline.schedules.first(), first=now, last=now, ticks=1, reason="overlap", run=run
    )
