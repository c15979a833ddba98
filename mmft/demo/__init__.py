"""The embedded default: `make demo` draws food, trains a small base, fine-tunes, exports and compares the answers."""
