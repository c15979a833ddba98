"""Pictures to tiles: opened from anywhere, laid on a background, cut as a vision tower takes them."""
