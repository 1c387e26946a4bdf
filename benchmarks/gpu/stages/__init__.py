"""The stages of the GPU run: each module has a function `measure(results, tiny)`."""
