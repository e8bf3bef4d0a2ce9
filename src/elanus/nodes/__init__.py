"""The roles: how they call one another (`contracts`, `codec`), and one package per role, strangers to each other."""
