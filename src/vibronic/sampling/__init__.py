"""From one crystal to many configurations."""
