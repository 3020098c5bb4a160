"""Which bonds and which vibrations move a property."""
