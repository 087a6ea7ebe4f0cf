"""Draws a measurement: `plot.py perf/results/NAME` writes cpu.svg and p99.svg there from runs.csv.

Per workload one bar for each contender: the median over the rounds, with a whisker from the least to the greatest run.
"""

import csv
import html
import statistics
import sys

WIDTH, LEFT, BAR, GAP = 960, 270, 15, 14
COLOURS = {"pgdog": "#c1440e", "pgdog-1": "#e58a5c", "pgbouncer": "#336791", "haproxy": "#7a9e7e", "direct": "#9a9a9a"}
FIGURES = {"cpu_us": "CPU of the proxy per transaction, µs", "p99_us": "99th percentile of latency, µs"}


def read(path):
    """Values by column, workload and contender."""
    values = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            for column in FIGURES:
                if row.get(column):
                    runs = values.setdefault(column, {}).setdefault(row["workload"], {})
                    runs.setdefault(row["contender"], []).append(float(row[column]))
    return values


def label(figure):
    return f"{figure:,.1f}" if figure < 1_000 else f"{figure:,.0f}"


def draw(title, workloads):
    """Each workload on a scale of its own: they differ by factors of a hundred."""
    y, body = 44, []
    for workload, contenders in workloads.items():
        body.append(f'<text x="4" y="{y + 12}" font-weight="bold">{html.escape(workload)}</text>')
        most = max(max(runs) for runs in contenders.values())
        for contender, runs in contenders.items():
            scale = (WIDTH - LEFT - 90) / most
            middle, least, greatest = (LEFT + figure * scale for figure in (statistics.median(runs), min(runs), max(runs)))
            body.append(
                f'<rect x="{LEFT}" y="{y}" width="{middle - LEFT:.1f}" height="{BAR - 2}" fill="{COLOURS.get(contender, "#b8a1cf")}"/>'
                f'<path d="M{least:.1f} {y + 6}H{greatest:.1f}M{least:.1f} {y + 3}v6M{greatest:.1f} {y + 3}v6" stroke="#222"/>'
                f'<text x="{LEFT - 4}" y="{y + 11}" text-anchor="end">{html.escape(contender)}</text>'
                f'<text x="{greatest + 5:.1f}" y="{y + 11}">{label(statistics.median(runs))}</text>'
            )
            y += BAR
        y += GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="#fff"/><text x="4" y="20" font-size="15">{html.escape(title)}</text>' + "\n".join(body) + "</svg>\n"
    )


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    folder = sys.argv[1]
    for column, workloads in read(f"{folder}/runs.csv").items():
        path = f"{folder}/{column.removesuffix('_us')}.svg"
        with open(path, "w") as file:
            file.write(draw(FIGURES[column], workloads))
        print(path)


if __name__ == "__main__":
    main()
