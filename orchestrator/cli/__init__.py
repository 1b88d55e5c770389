"""The `farm` command: one file per subcommand, and nothing heavy imported before a subcommand needs it."""
