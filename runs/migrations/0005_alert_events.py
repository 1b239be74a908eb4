"""The trigger that notes what alert rules may care for."""

from django.db import migrations

# Runs that move no row say nothing of how the pipeline does, nor do backfills; but whatever is held waits for somebody.
MATTERS = (
    "NEW.status <> OLD.status AND ('held' IN (NEW.status, OLD.status)"
    " OR NEW.status IN ('succeeded', 'failed', 'cancelled')"
    " AND NEW.action NOT IN ('set_watermark', 'compare', 'undo', 'backfill', 'replay') AND NEW.trigger <> 'backfill')"
)


class Migration(migrations.Migration):
    dependencies = [("runs", "0004_lanes")]

    operations = [
        migrations.RunSQL(
            f"""
            CREATE FUNCTION runs_note_alert_event() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF EXISTS (
                    SELECT FROM pipelines_alertrule r WHERE r.enabled AND (r.every_pipeline OR EXISTS (
                        SELECT FROM pipelines_alertrule_pipelines p
                        WHERE p.alertrule_id = r.id AND p.pipeline_id = NEW.pipeline_id))
                ) THEN
                    INSERT INTO runs_alertevent (run_id, pipeline_id, status)
                    VALUES (NEW.id, NEW.pipeline_id, NEW.status);
                END IF;
                RETURN NULL;
            END $$;
            CREATE TRIGGER run_may_alert AFTER UPDATE OF status ON runs_run
                FOR EACH ROW WHEN ({MATTERS}) EXECUTE FUNCTION runs_note_alert_event();
            """,
            "DROP FUNCTION runs_note_alert_event() CASCADE",
        )
    ]
