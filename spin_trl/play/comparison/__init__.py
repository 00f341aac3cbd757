"""Comparison of arms: methods, settings and baselines, from one start, with several seeds (`spin-trl compare`)."""
