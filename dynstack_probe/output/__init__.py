"""How figures are written: tables, CSV, JSON."""
