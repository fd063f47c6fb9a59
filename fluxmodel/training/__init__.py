"""One training loop for every network: an objective in, step reports and a final directory out."""
