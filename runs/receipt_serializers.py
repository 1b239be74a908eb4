"""Receipts of loads and comparisons, and what a comparison costs: for the API's schema."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import PolymorphicProxySerializer
from rest_framework import serializers

from connectors.drift import ChangeKind


class ChangesSerializer(serializers.Serializer[Any]):
    """What a publish did to the target's rows."""

    inserted = serializers.IntegerField()
    updated = serializers.IntegerField()
    unchanged = serializers.IntegerField(help_text="The same already: not touched.")
    deleted = serializers.IntegerField(help_text="Deleted, marked as deleted or, in a history, ended.")
    duplicates = serializers.IntegerField(help_text="Rows of the source beyond one for each key.")
    stale = serializers.IntegerField(help_text="Rows older than what the target had.")
    revived = serializers.IntegerField(required=False, help_text="Marked or ended before, and there again.")
    versions = serializers.IntegerField(required=False, help_text="Inserted into a history, of keys that it knew.")
    marked = serializers.IntegerField(required=False, help_text="Of those in deleted, only marked as such.")


class TargetSerializer(serializers.Serializer[Any]):
    schema = serializers.CharField()
    table = serializers.CharField()


class ReceiptSourceSerializer(serializers.Serializer[Any]):
    """How rows were read; a table has a session, a query also a job."""

    table = serializers.CharField(required=False)
    session = serializers.CharField(required=False, help_text="The read session's name.")
    session_expires = serializers.DateTimeField(required=False, allow_null=True)
    job = serializers.CharField(required=False, help_text="The query job's name.")
    location = serializers.CharField(required=False)
    bytes_processed = serializers.IntegerField(required=False)
    bytes_billed = serializers.IntegerField(required=False)
    cache_hit = serializers.BooleanField(required=False, allow_null=True)
    parts = serializers.IntegerField(required=False, help_text="How many parts it was loaded in.")
    generation = serializers.IntegerField(required=False, help_text="The attempt whose plan the parts are of.")


class IntervalSerializer(serializers.Serializer[Any]):
    """What was read of the cursor; bounds are texts, an empty one is none."""

    column = serializers.CharField()
    type = serializers.CharField()
    low = serializers.CharField(allow_blank=True)
    high = serializers.CharField(allow_blank=True)
    includes_low = serializers.BooleanField()
    rows = serializers.IntegerField(allow_null=True)
    through = serializers.IntegerField(help_text="Rows up to `high`.")
    below = serializers.IntegerField(help_text="Rows up to the watermark that was there before.")
    nulls = serializers.IntegerField(help_text="Rows without a cursor.")
    left = serializers.IntegerField(help_text="Newer rows that have yet to settle.")
    late = serializers.IntegerField(allow_null=True, help_text="Net rows that came below the watermark since.")


class KeptTotalsSerializer(serializers.Serializer[Any]):
    """How much is kept for an undo."""

    tables = serializers.IntegerField(help_text="Former states that are kept.")
    bytes = serializers.IntegerField(help_text="What they took when they were put aside.")
    copied_rows = serializers.IntegerField(required=False, help_text="Rows copied before they were changed in place.")
    copy_seconds = serializers.FloatField(required=False, help_text="How long writers waited for the copy.")


class UndoneSerializer(serializers.Serializer[Any]):
    """What an undo put back."""

    way = serializers.ChoiceField(["rename", "in_place"])
    rows = serializers.IntegerField(help_text="Rows that are back.")
    as_left_by = serializers.UUIDField(allow_null=True, help_text="Null: it was there before the first run.")
    put_aside_by = serializers.UUIDField()
    put_aside_at = serializers.DateTimeField()
    in_place_of = serializers.UUIDField(allow_null=True, help_text="The run that had published last.")
    redefined = serializers.BooleanField(
        required=False, help_text="It was written under another definition than what was there."
    )
    rows_before = serializers.IntegerField(
        required=False, allow_null=True, help_text="Rows it had as its run left it, where that is known."
    )
    written_since = serializers.IntegerField(
        required=False, help_text="Of its rows, those that somebody else wrote after it was put aside."
    )


class SchemaChangeSerializer(serializers.Serializer[Any]):
    """A column of the source, or a field of a STRUCT, that is not what it was; types in BigQuery's words."""

    change = serializers.ChoiceField(choices=[kind.value for kind in ChangeKind])
    column = serializers.CharField()
    before = serializers.CharField(allow_blank=True)
    after = serializers.CharField(allow_blank=True)


class RanStatementSerializer(serializers.Serializer[Any]):
    """A statement that was run around the load."""

    when = serializers.ChoiceField(["before", "after"])
    statement = serializers.IntegerField(help_text="Its number, from 1.")
    rows = serializers.IntegerField(help_text="Rows it wrote or gave.")
    seconds = serializers.FloatField()


class ReceiptSerializer(serializers.Serializer[Any]):
    """What a run did, with proof; the destination keeps the same in `_datamantri.applied`.

    There may be further facts, which depend on the kind of source.
    """

    revision = serializers.IntegerField(help_text="Number of the definition that ran.")
    rows = serializers.IntegerField(help_text="Rows read, and staged.")
    source_rows = serializers.IntegerField(
        required=False, allow_null=True, help_text="Rows that the source itself counted at the snapshot."
    )
    bytes = serializers.IntegerField(help_text="Bytes written by COPY.")
    changes = ChangesSerializer()
    method = serializers.CharField(help_text="append, create, rename, in_place, merge, history or undo.")
    disposition = serializers.CharField()
    target = TargetSerializer()
    snapshot_time = serializers.DateTimeField(help_text="The source was read as it was then.")
    published_at = serializers.DateTimeField(help_text="By the destination's clock.")
    interval = IntervalSerializer(required=False, allow_null=True)
    watermark_before = serializers.CharField(required=False, allow_null=True)
    watermark_after = serializers.CharField(required=False, allow_null=True)
    kept = KeptTotalsSerializer(required=False, allow_null=True)
    undo = UndoneSerializer(required=False, allow_null=True)
    sql = RanStatementSerializer(many=True, required=False, help_text="Statements run around the load.")
    drift = SchemaChangeSerializer(
        many=True, required=False, help_text="How the source's columns had changed since the run before."
    )
    columns = serializers.DictField(
        required=False, allow_null=True, help_text="After a change: names and types that the target has its columns by."
    )
    lock_wait_ms = serializers.FloatField()
    lock_held_ms = serializers.FloatField(help_text="How long readers (rename) or writers (merge, in_place) waited.")
    repaired = serializers.DictField(
        child=serializers.IntegerField(), help_text="By column, values with characters that PostgreSQL cannot store."
    )
    quarantined = serializers.DictField(
        child=serializers.IntegerField(),
        required=False,
        help_text="Rows that were read and put into quarantine, by column and code: they come on top of `rows`.",
    )
    replayed = serializers.IntegerField(required=False, help_text="Rows that came from the quarantine.")
    source = ReceiptSourceSerializer()  # type: ignore[assignment]
    seconds = serializers.DictField(child=serializers.FloatField(), help_text="By phase: plan, load, publish.")
    token = serializers.IntegerField()


class ComparedFindingSerializer(serializers.Serializer[Any]):
    """One thing that a comparison found; the first is the answer."""

    code = serializers.CharField()
    is_good = serializers.BooleanField(allow_null=True, help_text="For, against, or null: it only explains.")
    text = serializers.CharField()


class SumsSerializer(serializers.Serializer[Any]):
    nulls = serializers.IntegerField()
    sum = serializers.CharField(allow_null=True, help_text="Of hashes of the values' texts; null where there are none.")


class ComparedColumnSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    type = serializers.CharField()
    then = SumsSerializer(required=False, help_text="The source at the last run's snapshot.")
    now = SumsSerializer(required=False, help_text="The source as it is.")
    target = SumsSerializer()
    differs = serializers.BooleanField()
    counted_only = serializers.BooleanField()


class CountsSerializer(serializers.Serializer[Any]):
    then = serializers.IntegerField(allow_null=True)
    now = serializers.IntegerField(allow_null=True)
    target = serializers.IntegerField()


class KeySerializer(serializers.Serializer[Any]):
    where = serializers.ChoiceField(choices=["both", "source", "target"])
    key = serializers.ListField(child=serializers.CharField(allow_null=True))
    values = serializers.DictField(
        child=serializers.ListField(child=serializers.CharField(allow_null=True)),
        help_text="By column, the source's value and the target's, as text.",
    )
    more = serializers.IntegerField(help_text="Further columns that differ.")


class KeysSerializer(serializers.Serializer[Any]):
    only_source = serializers.IntegerField()
    only_target = serializers.IntegerField()
    quarantined = serializers.IntegerField(required=False, help_text="Keys that differ for a row in quarantine.")
    differing = serializers.IntegerField()
    is_complete = serializers.BooleanField(help_text="All rows that may differ were looked at.")
    rows_looked_at = serializers.IntegerField()
    shown = KeySerializer(many=True, help_text="At most 100; empty for those who may not run the pipeline.")


class ComparisonSerializer(serializers.Serializer[Any]):
    """What a run with the action `compare` found."""

    revision = serializers.IntegerField()
    method = serializers.CharField(help_text="compare")
    answer = serializers.CharField(help_text="The code of the first finding.")
    agrees = serializers.BooleanField(allow_null=True, help_text="null: these sides cannot be compared.")
    findings = ComparedFindingSerializer(many=True)
    run = serializers.UUIDField(help_text="The run that was published last.")
    snapshot_time = serializers.DateTimeField(help_text="When that run read the source.")
    is_of_snapshot = serializers.BooleanField(help_text="The source was compared as it was then.")
    read_at = serializers.DateTimeField()
    target = TargetSerializer()
    key = serializers.ListField(child=serializers.CharField())
    cursor = serializers.CharField(allow_blank=True)
    watermark = serializers.CharField(allow_blank=True)
    counts = CountsSerializer()
    columns = ComparedColumnSerializer(many=True)
    missing = serializers.ListField(child=serializers.CharField(), help_text="Columns that the target lacks.")
    keys = KeysSerializer(allow_null=True)
    quarantined = serializers.IntegerField(
        required=False, help_text="Rows that the target lacks because they are in quarantine."
    )
    keys_at = serializers.CharField(allow_blank=True, help_text="then or now: what the keys were compared with.")
    source = serializers.DictField(help_text="jobs, bytes_processed and bytes_billed.")  # type: ignore[assignment]
    seconds = serializers.DictField(child=serializers.FloatField())


RECEIPTS = PolymorphicProxySerializer(
    component_name="AnyReceipt", serializers=[ReceiptSerializer, ComparisonSerializer], resource_type_field_name=None
)


class ComparedSourceSerializer(serializers.Serializer[Any]):
    bytes = serializers.IntegerField(allow_null=True, help_text="What one pass over all columns reads.")
    least_billed = serializers.IntegerField(allow_null=True, help_text="Bytes billed if both sides agree.")
    most_billed = serializers.IntegerField(allow_null=True, help_text="Bytes billed at most: a good limit.")
    no_snapshot = serializers.CharField(allow_blank=True, help_text="Why it cannot be read as the last run read it.")
    is_gone = serializers.BooleanField(help_text="It could be read so once: compare with `now`.")
    is_unchanged = serializers.BooleanField(help_text="By its own record nothing changed since.")


class ComparedTargetSerializer(serializers.Serializer[Any]):
    rows = serializers.IntegerField()
    bytes = serializers.IntegerField()


class ComparisonCostSerializer(serializers.Serializer[Any]):
    """What a comparison would read; the target's figures are estimates."""

    snapshot_time = serializers.DateTimeField()
    source = ComparedSourceSerializer()  # type: ignore[assignment]
    target = ComparedTargetSerializer(allow_null=True)
