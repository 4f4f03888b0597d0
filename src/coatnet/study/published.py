"""Points of the paper's Tables 4 and 5 (arXiv 2106.04803), to be drawn beside a study's own."""

from __future__ import annotations

from typing import NamedTuple


class PublishedPoint(NamedTuple):
    """One row of the paper: accuracy on ImageNet-1K."""

    table: str
    model: str
    image_size: int
    parameters: float
    """Millions."""
    multiply_adds: float | None
    """10^9, as printed, for one image; None where the table has none."""
    top1: float
    """Per cent."""


_TABLE_4 = """
CoAtNet-0 224 25 4.2 81.6|CoAtNet-1 224 42 8.4 83.3|CoAtNet-2 224 75 15.7 84.1|CoAtNet-3 224 168 34.7 84.5
CoAtNet-0 384 25 13.4 83.9|CoAtNet-1 384 42 27.4 85.1|CoAtNet-2 384 75 49.8 85.7|CoAtNet-3 384 168 107.4 85.8
CoAtNet-2 512 75 96.7 85.9|CoAtNet-3 512 168 203.1 86.0
EfficientNet-B7 600 66 37 84.7|EfficientNetV2-S 384 24 8.8 83.9|EfficientNetV2-M 480 55 24 85.1
EfficientNetV2-L 480 121 53 85.7|ResNet-RS-152 256 87 31 83.0|ResNet-RS-420 320 192 128 84.4
NFNet-F0 256 72 12.4 83.6|NFNet-F1 320 133 35.5 84.7|NFNet-F2 352 194 62.6 85.1|NFNet-F3 416 255 114.8 85.7
NFNet-F4 512 316 215.2 85.9|NFNet-F5 544 377 289.8 86.0
DeiT-S 224 22 4.6 79.8|DeiT-B 224 86 17.5 81.8|DeiT-B 384 86 55.4 83.1|CaiT-S-24 224 46.9 9.4 82.7
CaiT-S-36 224 68.2 13.9 83.3|CaiT-M-24 224 185.9 36.0 83.4|CaiT-S-24 384 46.9 32.2 84.3|CaiT-S-36 384 68 48.0 85.0
CaiT-M-24 384 185.9 116.1 84.5|DeepViT-S 224 27 6.2 82.3|DeepViT-L 224 55 12.5 83.1
PVT-Small 224 24.5 3.8 79.8|PVT-Medium 224 44.2 6.7 81.2|PVT-Large 224 61.5 9.8 81.7
Swin-T 224 29 4.5 81.3|Swin-S 224 50 8.7 83.0|Swin-B 224 88 15.4 83.3|Swin-B 384 88 47.0 84.2
BotNet-T7 384 75.1 45.8 84.7|T2T-ViT-14 224 21.5 6.1 81.7|T2T-ViT-19 224 39.2 9.8 82.2|T2T-ViT-24 224 64.1 15.0 82.6
CvT-13 224 20 4.5 81.6|CvT-21 224 32 7.1 82.5|CvT-13 384 20 16.3 83.0|CvT-21 384 32 24.9 83.3
"""
_TABLE_5 = """
ResNet+ViT-L/16 384 330 - 87.12|ViT-L/16 512 307 364 87.76|ViT-H/14 518 632 1021 88.55|NFNet-F4+ 512 527 367 89.2
CoAtNet-3 384 168 114 88.52|CoAtNet-3 512 168 214 88.81|CoAtNet-4 512 275 361 89.11|CoAtNet-5 512 688 812 89.77
ViT-G/14 518 1840 5160 90.45|CoAtNet-6 512 1470 1521 90.45|CoAtNet-7 512 2440 2586 90.88
"""


def _read(table: str, text: str) -> tuple[PublishedPoint, ...]:
    rows = (row.split() for row in text.replace("\n", "|").split("|") if row)
    return tuple(
        PublishedPoint(table, model, int(size), float(millions), None if cost == "-" else float(cost), float(top1))
        for model, size, millions, cost, top1 in rows
    )


TABLE_4 = _read("Table 4", _TABLE_4)
"""Trained on ImageNet-1K alone."""
TABLE_5 = _read("Table 5", _TABLE_5)
"""Pre-trained on JFT."""
TABLE_2 = {("CCTT", 224): 82.39, ("CTTT", 224): 81.78, ("CCTT", 384): 84.23, ("CTTT", 384): 84.02}
"""Accuracy on ImageNet-1K in per cent of two layouts pre-trained on JFT, by layout and image size in pixels."""
TABLE_2_SIZES = (224, 384)
"""Its image sizes."""
