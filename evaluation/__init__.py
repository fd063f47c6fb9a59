"""The judge: distances, scores, intervals and the report about one model."""
