"""Both text formats of the metrics, read by Prometheus' own Python parsers. PGPORT is the metrics port."""

import os
import urllib.request

from prometheus_client.openmetrics import parser as strict
from prometheus_client import parser as plain

URL = f"http://127.0.0.1:{os.environ['PGPORT']}/metrics"


def scrape(accept):
    request = urllib.request.Request(URL, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def families(parse, text):
    found = {family.name: family for family in parse.text_string_to_metric_families(text)}
    assert len(found) > 60, len(found)
    return found


kind, text = scrape("text/plain;version=0.0.4,*/*;q=0.1")
assert kind == "text/plain; version=0.0.4; charset=utf-8", kind
by_name = families(plain, text)
assert by_name["pgdog_sv_idle"].type == "gauge"
assert by_name["pgdog_total_xact_count"].type == "counter"
labels = by_name["pgdog_total_xact_count"].samples[0].labels
assert list(labels) == ["user", "database", "host", "port", "shard", "role"], labels
assert labels["user"] == 'al"i\\ce', labels
queries = by_name["pgdog_query_duration_seconds"]
assert queries.type == "histogram", queries.type
last = 0
for sample in queries.samples:
    if sample.name.endswith("_bucket"):
        assert sample.value >= last, queries.samples
        last = sample.value
counts = [sample.value for sample in queries.samples if sample.name.endswith("_count")]
assert counts == [last] and last > 0, counts
assert sum(s.value for s in by_name["pgdog_total_query_count"].samples) == last

kind, text = scrape("application/openmetrics-text; version=1.0.0")
assert kind == "application/openmetrics-text; version=1.0.0; charset=utf-8", kind
assert set(families(strict, text)) == set(by_name)
print("all well")
