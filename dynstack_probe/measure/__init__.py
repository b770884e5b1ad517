"""What the probes see, as frozen dataclasses: no I/O after construction."""
