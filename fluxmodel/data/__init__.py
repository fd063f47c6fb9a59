"""Where images and captions come from, and how they reach the network."""
