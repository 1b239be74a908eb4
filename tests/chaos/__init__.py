"""The chaos suite: faults of all kinds while runs move rows, and an oracle that misses nothing."""
