"""Silence for decoders that print: what is wrong with a file stands in its refusal, not on the terminal.

libtiff writes each error of a damaged file to file descriptor 2, a line for a row of pixels at times (1 400 for 150
damaged faxes). Turning the descriptor aside would take what other threads print with it; so libtiff itself is told to
say nothing, once for the process, which is what its own `TIFFSetErrorHandler(NULL)` is for.
"""

import ctypes
import functools
import logging


@functools.cache
def quiet_decoders() -> None:
    """Make libtiff and Pillow's TIFF plugin keep what they say to themselves, for the whole process.

    Where Pillow's libtiff cannot be reached (built into it, or on Windows) it goes on printing.
    """
    from PIL import _imaging  # pyright: ignore[reportAttributeAccessIssue]

    logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)
    try:
        library = ctypes.CDLL(
            _imaging.__file__
        )  # a symbol is looked for in what this one is linked to as well
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            handler = getattr(library, name)
            handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            handler(None)
    except (OSError, AttributeError):
        return
