"""Side-by-side measurements; results lie in benchmarks/results as JSON."""
