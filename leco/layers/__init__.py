"""Modules that compute from a Theta, and smaller modules: `factorize`, `packed`, `narrow`."""
