from tests.definitions import (  # noqa: F401
    destination,
    living_destination,
    lookups_worker,
    make_pipeline,
    operator,
    source,
)
