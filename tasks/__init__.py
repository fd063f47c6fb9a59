"""One thin file a stage: artifact in, library call, artifact out, logged."""
