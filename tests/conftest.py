from __future__ import annotations

from hypothesis import HealthCheck, settings

# A busy machine decides no test.
settings.register_profile("socketguard", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("socketguard")
