"""The trigger that brings what runs are billed to the ledger, and what micro-batches are to the sums of their days."""

from django.db import migrations

# Bills are noted as totals of the run: what is new of them belongs to today, in UTC.
KEEP = """
CREATE FUNCTION runs_note_bill() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO runs_ledger AS known (pipeline_id, day, action, runs, query_bytes, storage_bytes, cost)
    VALUES (NEW.pipeline_id, (statement_timestamp() AT TIME ZONE 'UTC')::date, NEW.action,
        CASE WHEN OLD.query_bytes = 0 AND OLD.storage_bytes = 0 THEN 1 ELSE 0 END,
        NEW.query_bytes - OLD.query_bytes, NEW.storage_bytes - OLD.storage_bytes, NEW.cost - OLD.cost)
    ON CONFLICT (pipeline_id, day, action) DO UPDATE SET
        runs = known.runs + excluded.runs,
        query_bytes = known.query_bytes + excluded.query_bytes,
        storage_bytes = known.storage_bytes + excluded.storage_bytes,
        cost = known.cost + excluded.cost;
    IF NEW.trigger = 'realtime' THEN
        INSERT INTO runs_pollday AS known (pipeline_id, day, runs, failed, rows, bytes_billed, cost)
        VALUES (NEW.pipeline_id, (statement_timestamp() AT TIME ZONE 'UTC')::date, 0, 0, 0,
            NEW.query_bytes - OLD.query_bytes + NEW.storage_bytes - OLD.storage_bytes, NEW.cost - OLD.cost)
        ON CONFLICT (pipeline_id, day) DO UPDATE SET
            bytes_billed = known.bytes_billed + excluded.bytes_billed, cost = known.cost + excluded.cost;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER run_was_billed AFTER UPDATE OF query_bytes, storage_bytes ON runs_run
    FOR EACH ROW WHEN ((NEW.query_bytes, NEW.storage_bytes) IS DISTINCT FROM (OLD.query_bytes, OLD.storage_bytes))
    EXECUTE FUNCTION runs_note_bill();
"""


class Migration(migrations.Migration):
    dependencies = [("runs", "0006_upstreams")]
    operations = [migrations.RunSQL(KEEP, "DROP FUNCTION runs_note_bill() CASCADE")]
