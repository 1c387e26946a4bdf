"""Importing this module imports the pipeline without what only quantized weights and LoRA need.

Processes that are forked from one that has imported it start fast.
"""

from starflow.startup import import_libraries

import_libraries(quantized=False)
