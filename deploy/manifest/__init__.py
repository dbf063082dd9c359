"""Files that run the GPU repository elsewhere: on a cluster with KServe, or on a machine with Docker Compose."""
