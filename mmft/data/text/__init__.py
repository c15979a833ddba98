"""Records to token ids and labels: tokenizers and chat templates."""
