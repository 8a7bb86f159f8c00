"""Who a client is, what it may hear, and until when."""
