"""From numbers to pages: an evaluation as a document, and the document as HTML, Markdown and CSV.

One document model serves the evaluation, the acceptance and the monitoring; what says a number builds a
`Table`, what draws one a `Figure`, and the writers know nothing of either's meaning.
"""
