"""The triggers that keep each run's lane, and its priority in step with its pipeline's."""

from django.db import migrations

# A run that is being asked for while its pipeline changes may keep the lane that the pipeline had a moment before.
# What a pipeline has unfinished is found by four small indexes.
KEEP = """
CREATE FUNCTION runs_lane_of(pipeline uuid) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    lane integer;
BEGIN
    FOR attempt IN 1..3 LOOP
        SELECT l.id INTO lane FROM pipelines_pipeline p JOIN runs_lane l
            ON l.source_id = p.source_id AND l.destination_id = p.destination_id
            AND l.pool_id IS NOT DISTINCT FROM p.pool_id
        WHERE p.id = pipeline;
        EXIT WHEN lane IS NOT NULL;
        INSERT INTO runs_lane (source_id, destination_id, pool_id)
        SELECT source_id, destination_id, pool_id FROM pipelines_pipeline WHERE id = pipeline
        ON CONFLICT DO NOTHING;
    END LOOP;
    RETURN lane;
END $$;

CREATE FUNCTION runs_give_lane() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.lane_id := runs_lane_of(NEW.pipeline_id);
    RETURN NEW;
END $$;
CREATE TRIGGER run_has_lane BEFORE INSERT OR UPDATE ON runs_run
    FOR EACH ROW WHEN (NEW.lane_id IS NULL) EXECUTE FUNCTION runs_give_lane();

CREATE FUNCTION runs_change_lane() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    lane integer := runs_lane_of(NEW.id);
BEGIN
    UPDATE runs_run SET lane_id = lane, priority = priority + NEW.priority - OLD.priority
    WHERE id IN (
        SELECT id FROM runs_run WHERE pipeline_id = NEW.id AND status = 'queued'
        UNION ALL
        SELECT id FROM runs_run WHERE pipeline_id = NEW.id AND status IN ('running', 'retrying', 'resolving')
        UNION ALL
        SELECT id FROM runs_run WHERE pipeline_id = NEW.id AND status = 'held'
        UNION ALL
        SELECT id FROM runs_run WHERE pipeline_id = NEW.id AND status = 'blocked'
    );
    RETURN NULL;
END $$;
CREATE TRIGGER pipeline_changes_lane AFTER UPDATE ON pipelines_pipeline
    FOR EACH ROW WHEN (
        (OLD.source_id, OLD.destination_id, OLD.pool_id, OLD.priority)
        IS DISTINCT FROM (NEW.source_id, NEW.destination_id, NEW.pool_id, NEW.priority))
    EXECUTE FUNCTION runs_change_lane();
"""

FORGET = """
DROP FUNCTION runs_give_lane() CASCADE;
DROP FUNCTION runs_change_lane() CASCADE;
DROP FUNCTION runs_lane_of(uuid);
"""


class Migration(migrations.Migration):
    dependencies = [("runs", "0003_last_ends")]
    operations = [migrations.RunSQL(KEEP, FORGET)]
