"""Flow matching: the path between noise and data, its times, its loss, its solvers."""
