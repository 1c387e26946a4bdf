"""Importing this module imports what the processes of a server need, without what quantized weights or LoRA need."""

from starflow.startup import import_libraries

import_libraries(quantized=False)
