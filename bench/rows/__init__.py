"""What is measured, and what is asked of it."""
