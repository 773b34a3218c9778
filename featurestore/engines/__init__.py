"""What runs a plan: DuckDB on one machine."""
