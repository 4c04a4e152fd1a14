"""What docs/benchmarks.md is made of: tables and figures from the records."""
