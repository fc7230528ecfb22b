"""What a set of samples is worth: sparsity, distances, and a judge of digits."""
