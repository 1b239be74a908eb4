"""The trigger that notes successes which other pipelines wait for, in the transaction that ends the run."""

from django.db import migrations

NOTE = """
CREATE FUNCTION runs_note_success() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM pipelines_dependency WHERE upstream_id = NEW.pipeline_id)
        OR EXISTS (SELECT FROM runs_prerequisite WHERE upstream_id = NEW.pipeline_id AND met_at IS NULL) THEN
        INSERT INTO runs_upstreamsuccess (run_id) VALUES (NEW.id) ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER run_has_succeeded AFTER UPDATE OF status ON runs_run
    FOR EACH ROW WHEN (
        NEW.status = 'succeeded' AND OLD.status <> 'succeeded' AND NEW.action NOT IN ('set_watermark', 'compare', 'undo', 'backfill', 'replay'))
    EXECUTE FUNCTION runs_note_success();
"""


class Migration(migrations.Migration):
    dependencies = [("runs", "0005_alert_events")]
    operations = [migrations.RunSQL(NOTE, "DROP FUNCTION runs_note_success() CASCADE")]
