"""The vault: the local archive. Files under their final name are whole and proved, or they are not there."""
