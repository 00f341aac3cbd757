"""Engines by name: a module each, named as the setting `engine` names it, with its class as `ENGINE`."""
