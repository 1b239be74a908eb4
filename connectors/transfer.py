"""The engine: plan, load, publish as separate calls; callbacks in, facts out."""
