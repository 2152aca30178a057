#!/bin/sh
# Healthy: it accepts connections over TCP, which a server still being set up
# does not.
exec pg_isready --quiet --host 127.0.0.1 --username "${POSTGRES_USER:-postgres}" --timeout 3
