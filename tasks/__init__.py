"""The retryable steps, by subject: each opens the site by name, calls vedr, returns a small value."""
