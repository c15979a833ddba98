"""The exhibit of `make demo`, no part of the package: food drawn, a small base trained, fine-tuned, exported, asked."""
