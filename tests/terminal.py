"""A command as it runs at a terminal, whatever runs the tests."""

INTERRUPTIBLE = """
import signal, sys
from endpointctl.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""
"""endpointctl for `python -c`: what a shell runs in the background has SIGINT ignored, and so have its children."""
