"""Alerts: what happened becomes alerts, alerts become deliveries, and a child process sends those."""
