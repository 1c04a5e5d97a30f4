"""How much may a client have, and for how long?"""
