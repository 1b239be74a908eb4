"""Measured figures, on tables made in the emulator: `make bench` writes bench/results/bench.json."""
