"""What you type: each module is a command, `python -m launch.NAME --help`."""
