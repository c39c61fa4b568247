"""Build the files with which other engines create a cluster's VMs from the seeds. Pure: one module for each target."""
