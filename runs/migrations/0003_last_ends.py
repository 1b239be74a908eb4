"""The trigger that keeps each pipeline's LastEnd."""

from django.db import migrations

# Runs that move no row say nothing of how the pipeline does.
ENDED = "NEW.status IN ('succeeded', 'failed', 'cancelled') AND NEW.action NOT IN ('set_watermark', 'compare', 'undo', 'replay')"


class Migration(migrations.Migration):
    dependencies = [("runs", "0002_groups")]

    operations = [
        migrations.RunSQL(
            f"""
            CREATE FUNCTION runs_note_end() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                INSERT INTO runs_lastend AS known (pipeline_id, run_id, status, created_at, finished_at)
                VALUES (NEW.pipeline_id, NEW.id, NEW.status, NEW.created_at, NEW.finished_at)
                ON CONFLICT (pipeline_id) DO UPDATE SET
                    run_id = excluded.run_id, status = excluded.status,
                    created_at = excluded.created_at, finished_at = excluded.finished_at
                WHERE known.created_at <= excluded.created_at;
                RETURN NULL;
            END $$;
            CREATE TRIGGER run_has_ended AFTER UPDATE OF status ON runs_run
                FOR EACH ROW WHEN ({ENDED} AND NEW.status <> OLD.status) EXECUTE FUNCTION runs_note_end();
            CREATE TRIGGER run_came_ended AFTER INSERT ON runs_run
                FOR EACH ROW WHEN ({ENDED}) EXECUTE FUNCTION runs_note_end();
            """,
            "DROP FUNCTION runs_note_end() CASCADE",
        )
    ]
