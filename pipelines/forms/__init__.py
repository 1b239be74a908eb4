"""Forms of the operator's desk, drawn where they can be from what connectors declare."""
