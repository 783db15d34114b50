"""What the commands of `pseudomri` do; `node.__main__` says how they are called.

A module here is imported when its command runs, so that none pays for what another one needs.
"""
