"""What runs the flows: one machine's Prefect server, worker and pages, started and stopped as one."""
