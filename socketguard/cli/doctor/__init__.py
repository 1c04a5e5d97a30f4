"""``socketguard doctor URL``: examines a Socket.IO endpoint from outside, through whatever stands in front of it.

A *target* is examined by *checks*; each asks its *probe* over the *network*, which fills *observations*. The *rules*
say what those mean: findings, each of one of the *symptoms*.
"""
