"""Samples to batches: which samples form one, and how they lie in it."""
