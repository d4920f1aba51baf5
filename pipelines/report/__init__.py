"""The report: tables in Markdown, figures as PNG."""
