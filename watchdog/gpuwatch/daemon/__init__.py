"""The daemon: gathers facts, asks the pure core, performs the effects, answers the app."""
