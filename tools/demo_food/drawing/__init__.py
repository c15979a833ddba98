"""Procedural pictures of food: shapes, a shaded canvas, tableware, dishes and still lifes."""
