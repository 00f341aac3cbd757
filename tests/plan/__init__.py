"""Plans, compared with figures computed by hand and with measured peaks."""
