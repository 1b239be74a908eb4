"""A BigQuery that behaves: a proxy in front of the emulator, for tests and benches."""
