"""What one would do without icf-utils, each as a small script of its own that is run as a process."""
