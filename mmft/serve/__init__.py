"""Talking to models: in this process, or on servers; and serving them."""
