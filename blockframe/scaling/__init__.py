"""How rates and norms scale with width and depth (docs/theory section 7)."""
