"""The dry run: what a config would train, how long its samples are and what memory a step takes."""
