"""A database backend for the web: PostgreSQL whose connections outlive requests."""
