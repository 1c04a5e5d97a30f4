"""Is this credential good, and whose is it?"""
