"""The commands and their options; nothing heavy is imported before a command runs."""
