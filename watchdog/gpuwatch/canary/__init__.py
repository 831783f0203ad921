"""The canary: one cheap machine of a real account, walked from offer to grave, and each assumption about the vendor checked.

`judge` says what was assumed and whether it held (pure), `job` is what runs on the box, `walk` does it through the
daemon (which alone rents and destroys) and looks on with the vendor's reads, `report` writes it down (pure).
"""
