"""Models that learn a property of a structure."""
