"""Speed, scaling and quality suites: ratios against peers, measured in one run."""
