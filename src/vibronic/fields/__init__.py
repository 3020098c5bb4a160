"""Molecules as fields: orbitals by linear combination, energies and densities learned from them."""
