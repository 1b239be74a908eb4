"""History, and everything that shows or starts runs."""
