"""Draws a flame graph (SVG) from the output of `perf script` on standard input.

One box per function, as wide as its share of the samples, standing on its caller. Hover for names and shares.
"""

import argparse
import html
import re
import sys

WIDTH, ROW, CHARACTER = 1400, 17, 6.6
# User code in warm colours, the kernel's in cool ones.
USER, KERNEL = ("#f4a259", "#f6bd60"), ("#7fb7be", "#9ad1d4")


class Frame:
    def __init__(self, name, kernel):
        self.name, self.kernel, self.samples, self.callees = name, kernel, 0, {}

    def callee(self, name, kernel):
        return self.callees.setdefault(name, Frame(name, kernel))


def shorten(symbol):
    """Without hashes, addresses and the paths inside generic arguments."""
    symbol = re.sub(r"\+0x[0-9a-f]+$", "", symbol)
    symbol = re.sub(r"::h[0-9a-f]{16}$", "", symbol)
    return re.sub(r"(?:\w+::)+(?=\w+[,>])", "", symbol)


def read(lines, comm):
    """Adds up the samples whose thread is `comm`: a line with its name, then its frames, innermost first."""
    root, stack, wanted = Frame("all", False), [], False
    for line in lines:
        if not line.strip():
            if wanted and stack:
                root.samples += 1
                frame = root
                for name, kernel in reversed(stack):
                    frame = frame.callee(name, kernel)
                    frame.samples += 1
            stack, wanted = [], False
        elif not line[0].isspace():
            wanted = comm is None or line.split()[0] == comm
        else:
            fields = re.match(r"\s+([0-9a-f]+) (.*) \((.*)\)$", line)
            if fields:
                name = shorten(fields[2])
                stack.append((name if name != "[unknown]" else f"[{fields[3].split('/')[-1]}]", fields[3].startswith("[")))
    return root


def depth(frame):
    return 1 + max((depth(callee) for callee in frame.callees.values()), default=0)


def boxes(frame, x, level, scale, total, height):
    width = frame.samples * scale
    if width < 0.4:
        return
    colour = (KERNEL if frame.kernel else USER)[level % 2]
    share = f"{frame.samples * 100 / total:.1f}%"
    label = html.escape(frame.name)
    y = height - (level + 2) * ROW
    text = frame.name[: int(width / CHARACTER)] if width > 3 * CHARACTER else ""
    yield (
        f'<g><title>{label}: {share}</title><rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 1}" fill="{colour}"/>'
        f'<text x="{x + 2:.1f}" y="{y + 12}">{html.escape(text)}</text></g>'
    )
    for callee in sorted(frame.callees.values(), key=lambda callee: callee.name):
        yield from boxes(callee, x, level + 1, scale, total, height)
        x += callee.samples * scale


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comm", help="only the thread of this name, for instance core-0")
    parser.add_argument("--title", default="")
    options = parser.parse_args()
    root = read(sys.stdin, options.comm)
    if root.samples == 0:
        raise SystemExit(f"no samples of {options.comm or 'any thread'}")
    height = (depth(root) + 3) * ROW
    print(f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="monospace" font-size="11">')
    print(f'<text x="4" y="14">{html.escape(options.title)} {root.samples} samples</text>')
    print("\n".join(boxes(root, 0, 0, WIDTH / root.samples, root.samples, height)))
    print("</svg>")


if __name__ == "__main__":
    main()
