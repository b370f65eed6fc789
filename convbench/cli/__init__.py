"""The command line: one file a command, each exposing ``command``."""
