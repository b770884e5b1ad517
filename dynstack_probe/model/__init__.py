"""Plain values that all rooms speak in. No I/O."""
