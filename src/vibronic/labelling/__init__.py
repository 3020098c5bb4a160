"""From structures to labels, crash-safe and on any machine."""
