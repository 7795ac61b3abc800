"""A small receiver of traces and metrics (OTLP over HTTP) and the page that shows them: `pixorly up --observe`."""
