"""What is known of a mask, and what may be taken out of it."""
