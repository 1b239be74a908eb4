"""Real servers from pip wheels: PostgreSQL, Valkey and, for demo and tests, a BigQuery emulator."""
