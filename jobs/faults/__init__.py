"""Breaks nights on purpose, to see that nothing is lost; `jobs.faults.reliability` counts it."""
