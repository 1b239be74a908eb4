"""Google BigQuery, read through the Storage Read API."""
