"""Facts about the running kernel: field offsets, features, capabilities, counters."""
