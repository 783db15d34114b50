"""The pages that the web role serves: health and metrics."""
