"""One file per kind of data: what it is, where it comes from, how we know it is unaltered."""
