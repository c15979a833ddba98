"""Two models, the same questions: what each answers, and whether the difference is more than chance."""
