"""The gateway: a request is read, checked and weighed, asked of a backend, and answered."""
