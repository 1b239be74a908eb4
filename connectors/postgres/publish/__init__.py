"""How loaded rows become what readers see: one file per way, and what they share."""
