"""Measures what the guard costs: ``python -m tests.benchmarks``.

Everything runs in one process, without a network: scripted clients call the ASGI application. See `measure` for how.
"""
