"""convbench's own kernels, registered through the same entry points as anyone else's."""
