"""Explanations as files: an overlay, a grid, or a page."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from coatnet.errors import ConfigError
from coatnet.explanation.explain import Explanation
from coatnet.explanation.faithfulness import Faithfulness
from coatnet.explanation.faithfulness_page import faithfulness_section
from coatnet.explanation.overlay import attention_tiles, bias_tiles, enlarged, overlay, write_png
from coatnet.pages.page import Picture, Section, Table, write_page
from coatnet.pages.plots import mosaic


def write_overlay(path: Path, explanation: Explanation) -> None:
    """The deepest heat map over the image, a PNG file.

    Raises:
        ConfigError: there is no heat map.
    """
    if not explanation.heat_maps:
        raise ConfigError("there is no heat map to lay over the image", "choose a method that applies")
    write_png(path, overlay(explanation.image, explanation.heat_maps[-1]))


def write_grid(path: Path, explanation: Explanation) -> None:
    """The image and every heat map over it, and the weights of the query in each block, a PNG file."""
    pictures, captions = [enlarged(explanation.image)], ["the image"]
    for heat_map in explanation.heat_maps:
        pictures.append(overlay(explanation.image, heat_map))
        captions.append(heat_map.title)
    for block in explanation.attention:
        heat_map = explanation.attention_map(block)
        pictures.append(overlay(explanation.image, heat_map))
        captions.append(heat_map.title)
    mosaic(path, pictures, captions, f"{explanation.label}, {100 * explanation.probability:.1f} %")


def write_explanation(path: Path, name: str, explanation: Explanation, measured: Faithfulness | None = None) -> None:
    """Everything, as one HTML file that needs no network.

    Args:
        path: the HTML file.
        name: of the image.
        explanation: of the image.
        measured: how faithful its heat maps are, if that was measured.
    """
    with TemporaryDirectory() as folder:
        sections = _Sections(Path(folder), explanation).all()
        if measured is not None:
            sections.insert(2, faithfulness_section(measured, Path(folder)))
        write_page(path, f"What was seen in {name}", [section for section in sections if not section.is_empty])


class _Sections:
    def __init__(self, folder: Path, explanation: Explanation) -> None:
        self.folder = folder
        self.explanation = explanation

    def all(self) -> list[Section]:
        return [self._summary(), self._heat_maps(), self._attention(), self._bias()]

    def _summary(self) -> Section:
        one = self.explanation
        height, width = one.image.shape[:2]
        path = self.folder / "image.png"
        write_png(path, enlarged(one.image))
        return Section(
            title="The answer that is explained",
            headline=f"{one.label}, {100 * one.probability:.1f} %",
            facts={
                "seen at": f"{height} x {width} pixels, resized and cropped as the network takes it",
                "place": f"row {one.at[0]}, column {one.at[1]}: its receptive fields and its attention are shown",
            },
            bullets=[f"Left out: {reason}." for reason in one.left_out.values()],
            pictures=[Picture(path=path, alt="the image as the network saw it")],
        )

    def _heat_maps(self) -> Section:
        one = self.explanation
        if not one.heat_maps:
            return Section(title="Where it looked")
        pictures = [overlay(one.image, heat_map) for heat_map in one.heat_maps]
        path = self.folder / "maps.png"
        mosaic(path, pictures, [heat_map.title for heat_map in one.heat_maps], "from cold (grey) to hot")
        return Section(
            title="Where it looked",
            text=[
                "Grad-CAM shows where features of a convolution stage speak for the class. Integrated gradients show "
                "what each pixel adds (red) or takes away (blue), from the mean colour to this image. Attention "
                "rollout shows from where information reaches the output, for any class. A receptive field shows which "
                "pixels move the stage's features at the place. Whether a map shows what counts is measured with "
                "--faithfulness."
            ],
            pictures=[Picture(path=path, alt="heat maps over the image")],
        )

    def _attention(self) -> Section:
        one = self.explanation
        pictures = []
        for block in one.attention:
            height, width = block.grid
            path = self.folder / f"attention-{block.name}.png"
            parts = block.parts(one.token_of(block))
            write_png(path, attention_tiles(parts))
            pictures.append(
                Picture(
                    path=path,
                    alt=f"static part, adaptive part and weights of each head of {block.name}",
                    caption=f"{block.name}, token {parts.token[0]},{parts.token[1]} of {height} x {width}; "
                    f"static {_range(parts.static)}, adaptive {_range(parts.adaptive)}",
                )
            )
        if not pictures:
            return Section(title="Attention taken apart")
        return Section(
            title="Attention taken apart",
            text=[
                "What the token at the place (green) attends to: a column for each head. Above, the static part: the "
                "learned bias of each offset, the same in every image. In the middle, the part that adapts to this "
                "image: query times key. Red is above and blue below the mean over the keys; each part has a scale of "
                "its own. Below, the weights: softmax of the sum."
            ],
            pictures=pictures,
            tables=[self._shares()],
        )

    def _shares(self) -> Table:
        blocks = self.explanation.attention
        most = max(len(block.table) for block in blocks)
        rows = []
        for block in blocks:
            shares = [f"{100 * share:.0f} %" for share in block.static_shares()]
            rows.append([block.name, *shares, *[""] * (most - len(shares))])
        return Table(
            columns=["block", *(f"head {head}" for head in range(1, most + 1))],
            rows=rows,
            caption="share of the static part in what tells the keys of a query apart (variance), over all queries",
        )

    def _bias(self) -> Section:
        pictures = []
        for block in self.explanation.attention:
            if block.table.any():
                path = self.folder / f"bias-{block.name}.png"
                write_png(path, bias_tiles(block.bias_map))
                pictures.append(
                    Picture(path=path, alt=f"bias maps of {block.name}", caption=f"{block.name}, {_range(block.table)}")
                )
        if not pictures:
            return Section(title="Learned bias")
        return Section(
            title="Learned bias",
            text=[
                "The bias that each head has learned for each offset, around the query (green): red where keys get "
                "more weight than the mean, blue where less, whatever the image shows."
            ],
            pictures=pictures,
        )


def _range(values: NDArray[np.float32]) -> str:
    return f"{values.min():+.2f} to {values.max():+.2f}"


def write_faithfulness(path: Path, title: str, measured: Faithfulness) -> None:
    """What was measured over several images, as one HTML file."""
    with TemporaryDirectory() as folder:
        write_page(path, title, [faithfulness_section(measured, Path(folder))])
