"""Insitu: imaging AI on the hospital's own server. The domain; processes live in insitu_services."""
