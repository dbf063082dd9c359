"""Share what several tests need: small networks, files of every kind, a fake plugin front end, a file's imports."""
