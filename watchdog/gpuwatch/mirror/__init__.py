"""Second copies behind rclone: what is due, where it goes, what proves it.

`names` checks what may reach rclone, `plan` says what is due (pure), `proof` remembers what stands verified,
`worker` is the process in which rclone-python runs, `rclone` drives it. `known` says where checkpoints stand,
`retention` which of them may go (pure).
"""
