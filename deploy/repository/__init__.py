"""Write the model repositories that servers load: one for a CPU, one for a GPU."""
