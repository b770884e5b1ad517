"""The daemon: sampling, metrics, configuration, systemd."""
