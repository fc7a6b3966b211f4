"""How a run goes on, as a text file for Prometheus."""
