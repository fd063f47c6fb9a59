"""Networks that turn images and words into numbers: autoencoder, text encoder, and those the evaluators use."""
