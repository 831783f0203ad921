"""Files from a RunPod network volume through its S3 address, with no pod running.

`volume` says where a volume answers and what of it can be kept (pure), `bring` copies with rclone and proves by reading back.
"""
