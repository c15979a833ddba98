"""The embedded default: `make demo` draws food, trains a small base, fine-tunes it, exports it and compares the answers."""
