"""What an action on a pipeline will do, in words, before anybody starts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from connectors.cursor import CURSOR_TYPES, number_of, text_of
from connectors.modes import Deletes, WriteDisposition
from pipelines import deletions
from pipelines.models import Pipeline
from runs import services
from runs.models import RunAction
from runs.page_queries import watermark_of
from runs.states import RunStatus


@dataclass(frozen=True)
class Asked:
    """A question with what follows from a yes; `takes_value` asks for a watermark as well, `confirm` for a tick behind
    these words."""

    action: RunAction
    title: str
    said: Sequence[str]
    button: str
    takes_value: bool = False
    watermark: str = ""
    confirm: str = ""


def ask(pipeline: Pipeline, name: str) -> Asked | None:
    """What the action called `name` in addresses will do; None if this pipeline has no such action."""
    action, title, question = _QUESTIONS.get(name, (RunAction.LOAD, "", None))
    return question(pipeline, action, title) if question and has_action(pipeline, action) else None


def ask_downstream(pipeline: Pipeline) -> Asked:
    """What running a pipeline and all downstream of it comes to."""
    chain = services.chain_from(pipeline)
    names = [each.name for each in chain.pipelines]
    said = [f"These run, each when those above it have succeeded: {', '.join(names)}."]
    if chain.left_out:
        out = ", ".join(each.name for each in chain.left_out)
        said.append(f"Left out, because it is paused or waits for nothing else: {out}.")
    said.append("When one fails, what is below it waits until it has succeeded after all, or gives up.")
    button = f"Run {len(names)} pipelines" if len(names) > 1 else "Run it"
    return Asked(RunAction.LOAD, "Run from here down", said, button)


def has_action(pipeline: Pipeline, action: str) -> bool:
    """Whether a run of this pipeline can be asked to do this."""
    return {
        RunAction.KEEP: pipeline.write_disposition != WriteDisposition.REPLACE,
        RunAction.SET_WATERMARK: pipeline.incremental,
        RunAction.BACKFILL: False,  # its slices are no single wish
        RunAction.REPLAY: False,  # it is of chosen rows, see runs.quarantining
        RunAction.UNDO: False,  # it is of one former state, see services.request_undo
    }.get(RunAction(action), True)


def actions_of(pipeline: Pipeline) -> list[tuple[str, str]]:
    """Names and titles of the actions that this pipeline has, besides a plain load."""
    return [(name, title) for name, (action, title, _) in _QUESTIONS.items() if has_action(pipeline, action)]


def checked_watermark(pipeline: Pipeline, text: str) -> str:
    """The watermark as it is kept, if the type of the cursor is known here; raises ConnectorError with cursor_value."""
    text = text.strip()
    known = {column["name"].lower(): column["type"] for column in pipeline.source_columns or ()}
    type_ = known.get(pipeline.cursor_column.lower())
    if not text or type_ not in CURSOR_TYPES:
        return text
    return text_of(number_of(text, type_, field="watermark"), type_)


def _full_refresh(pipeline: Pipeline, action: RunAction, title: str) -> Asked:
    source, target = pipeline.source_table or "the query", f"{pipeline.target_schema}.{pipeline.target_table}"
    last = pipeline.runs.filter(status=RunStatus.SUCCEEDED).order_by("-created_at").first()
    known = f" The last run moved {last.rows:,}." if last else ""
    said = [
        f"All rows of {source} are read, and billed as such where BigQuery bills reading.{known}",
        f"They take the place of all rows that {target} has now, in one step: until then readers see it as it is.",
        "Guards apply: a run that would empty the table, or take away too much of it, is held.",
    ]
    confirm = ""
    if services.forgets(pipeline, action):
        said[1] = f"Every version in {target} is deleted, and the history begins anew with what the source has now."
        confirm = "The versions that are there may go"
    elif pipeline.deletes == Deletes.SOFT:
        said.append("Rows that are marked as deleted go for good.")
    if pipeline.incremental:
        was = watermark_of(pipeline)
        said.append(f"The watermark{f', {was} now,' if was else ''} becomes the highest {pipeline.cursor_column} read.")
    return Asked(action, title, said, "Start the full refresh", confirm=confirm)


def _keep(pipeline: Pipeline, action: RunAction, title: str) -> Asked:
    said = [
        f"{pipeline.target_schema}.{pipeline.target_table} keeps the rows it has, whatever definition they came by.",
        f"This run and those after it go by revision {pipeline.revision.number if pipeline.revision else 1}.",
        "Rows that the new definition would have brought earlier are not fetched: for those, start a full refresh.",
    ]
    confirm = ""
    if deletions.are_made(pipeline):
        said.append(f"What it gives no longer counts as gone: {deletions.what_goes(pipeline)}, in this run already.")
        confirm = "What the new definition leaves out may go"
    return Asked(action, title, said, "Keep the rows and run", confirm=confirm)


def _set_watermark(pipeline: Pipeline, action: RunAction, title: str) -> Asked:
    was = watermark_of(pipeline)
    appends = pipeline.write_disposition == WriteDisposition.APPEND
    said = [
        f"No row moves. The watermark is {was or 'not set'}; the next run reads rows whose {pipeline.cursor_column}"
        " is above the value you give.",
        "A lower value makes the next run read rows again"
        + (": it appends them a second time." if appends else ", and merge them again, which changes nothing."),
        "A higher value leaves out the rows in between. An empty one makes the next run read all rows.",
    ]
    return Asked(RunAction.SET_WATERMARK, "Set watermark", said, "Set the watermark", takes_value=True, watermark=was)


_QUESTIONS = {
    "full-refresh": (RunAction.FULL_REFRESH, "Full refresh", _full_refresh),
    "keep": (RunAction.KEEP, "Keep rows, go on with the new definition", _keep),
    "watermark": (RunAction.SET_WATERMARK, "Set watermark", _set_watermark),
}
