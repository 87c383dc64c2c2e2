"""What operators decide in a site file, one module a subject: frozen models whose defaults are VirtEngine's."""
