"""One file a subcommand: parse, call, render; no logic."""
