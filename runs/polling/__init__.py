"""Near real time: sources are asked every few seconds whether they changed, and only then a run is asked for."""
