"""What is broken on purpose, to see that nothing is lost; `jobs.reliability` counts it."""
