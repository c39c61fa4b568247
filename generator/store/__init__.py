"""Read and write the cluster's folder `out/<cluster>/`."""
