"""Write the files that run the GPU repository elsewhere: on a cluster with KServe, or with Docker Compose."""
