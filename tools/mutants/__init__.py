"""Whether the tests notice small faults in src."""
