"""The command line: ``mmft COMMAND ...``; each script in tools/ is one of its commands."""
