"""Real software as real loads: their captures, and the tables made from those."""
