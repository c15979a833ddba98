"""How good answers are: metrics of one answer, and intervals for their mean."""
