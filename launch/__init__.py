"""What you type: each module is a command, `python -m launch.NAME --help`."""

import signal
import sys

# While a command imports what it needs, Ctrl-C ends it at once and without a stack trace. Python's
# own handler may raise in a callback of JAX, which would drop the exception.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
