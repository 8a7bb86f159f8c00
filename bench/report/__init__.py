"""What becomes of results: a page, plots, a comparison, the size of a fleet."""
