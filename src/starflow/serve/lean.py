"""Importing this module imports what the processes of a server need, without what only quantized weights need."""

from starflow.startup import import_libraries

import_libraries(quantized=False)
