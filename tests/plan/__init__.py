"""Tests of plans, which are compared with figures computed by hand and with measured peaks."""
