"""PostgreSQL, written through binary COPY."""
