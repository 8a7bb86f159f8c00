"""What wsd is measured against. Each speaks as much of PROTOCOL.md as its part of the comparison needs."""
