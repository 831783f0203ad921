"""Money over time: what was spent on what, what it will cost to the end, how long the balance lasts. Pure."""
