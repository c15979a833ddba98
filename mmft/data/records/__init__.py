"""Text on disk to records: annotation files, the formats of a record, mixtures and splits."""
