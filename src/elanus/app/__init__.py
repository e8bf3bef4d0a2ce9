"""The outermost layer: settings, the composition root, the command line, the embedded shape and the demo.

Everything that belongs to the process rather than to a role lives here: signals, ports, helper processes. Roles are
built here, once, from one frozen `Settings`, and nobody else reads the environment.
"""
