"""Show results: a summary of a batch, pictures, and an HTML report."""
