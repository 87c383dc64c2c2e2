"""Business continuity as data: functions, severity, activation, messages."""
