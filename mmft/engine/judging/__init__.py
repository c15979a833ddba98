"""What is wrong with a config: all of it at once, before anything is built."""
