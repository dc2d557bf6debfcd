"""What comes of a scan: masks, probabilities, measures, pictures."""
