"""Which of Pillow's options make thumbnails fastest, and what each costs in size and likeness.

    python bench/thumbnails.py

Draws a picture with edges, gradients and noise, and times each step of an image's way by the CPU that it takes: the
best of several runs, in milliseconds. Likeness is the peak signal-to-noise ratio in dB, against the best filter or
against what was encoded.

What came out on two cores of a shared machine (Pillow 13, libwebp 1.6, zlib-ng), and what follows from it:

- Scaling 1024 to 768 px: LANCZOS 17 ms, BICUBIC 13, HAMMING and BILINEAR 8; HAMMING is the closer of these two to
  LANCZOS (40 and 38 dB). So HAMMING, and the 256 from the 768.
- WebP of 768 px: method 0 11 ms and 62 KB, method 2 18 ms and 46 KB, method 4 39 ms and 44 KB. So method 2: a
  thumbnail is encoded once and sent many times.
- A PNG of 1.5 MB takes 48 ms from bytes to thumbnails, 15 of them its decode; a JPEG of 4096 px decodes in 29 ms
  instead of 49 if it scales as it does so.
"""

import io
import math
import time
from collections.abc import Callable

from PIL import Image, ImageChops, ImageDraw, ImageStat

from pixorly.formats import inspect
from pixorly.formats.limits import Limits
from pixorly_uploader.images import Recipe, examine, set_up

SIDE = 1024
SIZES = (768, 256)
FILTERS = ("BILINEAR", "HAMMING", "BICUBIC", "LANCZOS")


def drawing(side: int) -> Image.Image:
    """Return a picture that is about as hard to compress as a generated one: a PNG of about 1.5 MB at 1024."""
    bands = [
        Image.linear_gradient("L").resize((side, side)),
        Image.radial_gradient("L").resize((side, side)),
        Image.linear_gradient("L").rotate(90).resize((side, side)),
    ]
    image = Image.merge("RGB", bands)
    draw = ImageDraw.Draw(image)
    for number in range(60):
        left, top = number * 397 % side, number * 211 % side
        draw.ellipse((left, top, left + side // 6, top + side // 9), (number * 4, 255 - number * 3, number * 97 % 256))
        draw.line((left, top, side - top, side - left), (255 - number * 4, number * 31 % 256, number * 4), 3)
    noise = Image.merge("RGB", [Image.effect_noise((side, side), 2) for _ in range(3)])
    return ImageChops.add(image, noise, scale=1, offset=-128)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def best_ms(work: Callable[[], object], runs: int = 7) -> float:
    best = math.inf
    for _ in range(runs):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best * 1000


def likeness_db(one: Image.Image, other: Image.Image) -> float:
    squares = ImageStat.Stat(ImageChops.difference(one.convert("RGB"), other.convert("RGB"))).sum2
    mean = sum(squares) / (3 * one.width * one.height)
    return math.inf if not mean else 10 * math.log10(255**2 / mean)


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def scaling(image: Image.Image) -> None:
    print(f"\nscaling {SIDE} px\n{'filter':10} {'to':>5} {'ms':>7} {'dB':>7}")
    for px in SIZES:
        exact = image.resize((px, px), Image.Resampling.LANCZOS)
        for name in FILTERS:
            kind = Image.Resampling[name]

            def scale(kind: Image.Resampling = kind, px: int = px) -> Image.Image:
                return image.resize((px, px), kind, reducing_gap=2.0)

            print(f"{name:10} {px:5} {best_ms(scale):7.1f} {likeness_db(exact, scale()):7.1f}")
    large = image.resize((SIZES[0], SIZES[0]), Image.Resampling.HAMMING)
    from_large = best_ms(lambda: large.resize((SIZES[1], SIZES[1]), Image.Resampling.HAMMING))
    print(f"{'HAMMING':10} {SIZES[1]:5} {from_large:7.1f}         from the {SIZES[0]}")


def encoding(image: Image.Image) -> None:
    small = image.resize((SIZES[0], SIZES[0]), Image.Resampling.HAMMING)
    print(f"\nWebP of {SIZES[0]} px, quality 80\n{'method':>6} {'ms':>7} {'bytes':>8} {'dB':>6}")
    for method in range(7):

        def encode(method: int = method) -> bytes:
            return encoded(small, "WEBP", quality=80, method=method)

        data = encode()
        print(f"{method:6} {best_ms(encode):7.1f} {len(data):8} {likeness_db(small, opened(data)):6.1f}")


def drafts() -> None:
    data = encoded(drawing(4096), "JPEG", quality=90)

    def scaled() -> None:
        image = Image.open(io.BytesIO(data))
        image.draft(None, (2 * SIZES[0], 2 * SIZES[0]))
        image.load()

    whole_ms, scaled_ms = best_ms(lambda: opened(data), 3), best_ms(scaled, 3)
    print(f"\nJPEG of 4096 px: {whole_ms:.0f} ms whole, {scaled_ms:.0f} ms scaled as it decodes")


def whole_way(image: Image.Image) -> None:
    limits, recipe = Limits(), Recipe(SIZES, model="sandbox/aurora")
    set_up(limits)
    print(
        f"\nfrom bytes to thumbnails, {SIDE} px\n{'format':8} {'bytes':>9} {'decode':>7} {'inspect':>8} {'all':>7}   ms"
    )
    for kind, options in (("PNG", {}), ("JPEG", {"quality": 90}), ("WEBP", {}), ("GIF", {}), ("AVIF", {"speed": 10})):
        data = encoded(image.convert("P") if kind == "GIF" else image, kind, **options)
        steps = (lambda d=data: opened(d), lambda d=data: inspect(d, limits), lambda d=data: examine(d, limits, recipe))
        decode, look, all_of_it = (best_ms(step) for step in steps)
        print(f"{kind:8} {len(data):9} {decode:7.1f} {look:8.1f} {all_of_it:7.1f}")


if __name__ == "__main__":
    picture = drawing(SIDE)
    scaling(picture)
    encoding(picture)
    drafts()
    whole_way(picture)
