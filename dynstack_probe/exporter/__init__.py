"""From an `Estimate` to machines that watch: Prometheus, node_exporter, systemd."""
