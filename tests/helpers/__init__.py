"""Share what several tests need: small networks, files of every kind, a fake plugin front end, the imports of a file."""
