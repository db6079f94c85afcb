"""`make bench`: every measurement, one after the other."""

from tests.bench import ingest

ingest.main()
