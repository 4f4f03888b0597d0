"""How long a scan of many small JPEG files takes, and how far two encodings of one picture are apart.

python benchmarks/scan.py speed FOLDER [COUNT]    makes the files in FOLDER if it is not there
python benchmarks/scan.py encodings DATA          any data that coatnet train takes
"""

import io
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from coatnet.data.duplicates import THUMBNAIL, difference_hash
from coatnet.data.images import decode
from coatnet.data.sources import open_unsplit

FILTER = Image.Resampling.BILINEAR


def speed(folder: Path, count: int) -> None:
    if not folder.exists():
        make_files(folder, count)
    report = folder.with_suffix(".html")
    command = ["coatnet", "scan", str(folder), "--report", str(report), "--overwrite"]
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", *command], check=True)
    took = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{took:.1f} s, {count / took:,.0f} files/s, {used.ru_utime + used.ru_stime:.1f} s of the cores")
    print(f"{used.ru_maxrss / 1024:.0f} MiB in the largest process")


def make_files(folder: Path, count: int) -> None:
    """Smooth random pictures of 64 pixels, in ten class folders, every thousandth one a copy of the one before."""
    generator = np.random.default_rng(0)
    for index in range(count):
        if index % 1000:
            colours = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            image = Image.fromarray(colours).resize((64, 64), Image.Resampling.BICUBIC)
        path = folder / f"class{index // 10 % 10}" / f"{index:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=90) if index else Image.new("RGB", (64, 64)).save(path)


def encodings(data: str) -> None:
    source = open_unsplit(data)
    chosen = np.random.default_rng(0).choice(len(source), min(len(source), 300), replace=False)
    found: dict[str, list[tuple[float, float]]] = {}
    for index in chosen.tolist():
        image = Image.fromarray(decode(source.read(index)))
        for name, other in variants(image):
            found.setdefault(name, []).append(distance(image, other))
    for name, pairs in found.items():
        bits, shares = zip(*pairs, strict=True)
        middle, most = np.percentile(bits, [50, 99]), np.percentile(shares, [50, 99])
        print(f"{name}: bits {middle[0]:.0f}, {middle[1]:.0f}; difference {most[0]:.3f}, {most[1]:.3f} (50 %, 99 %)")


def variants(image: Image.Image) -> "list[tuple[str, Image.Image]]":
    made = [(f"JPEG of quality {quality}", recoded(image, quality)) for quality in (50, 75, 90)]
    for factor in (0.95, 1.05):
        size = round(image.width * factor), round(image.height * factor)
        made.append((f"{factor:.0%} of the size, JPEG 85", recoded(image.resize(size, Image.Resampling.BICUBIC), 85)))
    return made


def recoded(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def distance(first: Image.Image, second: Image.Image) -> tuple[int, float]:
    """Bits between the hashes; root mean square between the thumbnails in standard deviations of the first."""
    pair = np.stack([np.asarray(image.resize(THUMBNAIL[::-1], FILTER)) for image in (first, second)])
    one, other = difference_hash(pair)
    difference = pair[0].astype(float) - pair[1]
    return int(one ^ other).bit_count(), float(np.sqrt((difference**2).mean()) / pair[0].std())


def main() -> None:
    if sys.argv[1] == "encodings":
        encodings(sys.argv[2])
    else:
        speed(Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 100_000)


if __name__ == "__main__":
    main()
