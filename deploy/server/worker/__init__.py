"""Run inside the server's worker processes, its Python backend, on a machine without a GPU."""
