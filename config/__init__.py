"""Settings: loaded once, frozen, passed in."""
