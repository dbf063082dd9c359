"""What runs inside the server's worker processes on a machine without a GPU (its Python backend)."""
