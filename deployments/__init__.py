"""Where flows run: addresses, not logic."""
