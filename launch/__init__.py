"""The commands: `python -m launch` lists them, `python -m launch.NAME --help` describes one."""

import signal
import sys

# Ctrl-C during imports ends a command at once, without a stack trace. Python's own handler may
# raise in a callback of JAX, which would drop the exception. `command.run` restores that handler.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
