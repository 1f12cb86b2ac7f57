"""Masks: which positions of a batch are real, worked out once per batch."""

from collections.abc import Sequence

from torch import Tensor

from kfac_artifacts.errors import CoverageError


class Masks:
    """The attention mask of a batch, in the shape of a layer's positions.

    Real positions are found once for each shape: on a GPU that makes the host wait, so
    it must not happen at every layer.

    Args:
        mask: ``[N, T]``, true for a real token, or None.
    """

    def __init__(self, mask: Tensor | None) -> None:
        self.mask = mask
        self._found: dict[tuple[int, ...], tuple[Tensor | None, Tensor | None]] = {}

    def of(
        self, positions: Sequence[int], shape: Sequence[int]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Give the mask of the positions ``[N, *positions]``, and the real ones' rows.

        Tokens are the first axis of positions; each of a token's further ones (heads)
        is as real as the token, and so it is if they come before the tokens.

        Args:
            positions: Sizes of the axes between batch and features; none if pooled.
            shape: Of the layer's input, for the error.

        Returns:
            The mask ``[N, P]`` and the real positions' numbers among N · P; two Nones
            if all are real.

        Raises:
            CoverageError: If the positions are not the mask's tokens.
        """
        if self.mask is None or not positions:
            return None, None
        key = tuple(positions)
        if key not in self._found:
            self._found[key] = self._spread(self.mask, key, shape)
        return self._found[key]

    @staticmethod
    def _spread(
        mask: Tensor, positions: tuple[int, ...], shape: Sequence[int]
    ) -> tuple[Tensor | None, Tensor | None]:
        axes = [i for i, size in enumerate(positions[:2]) if size == mask.shape[1]]
        if len(axes) != 1:
            problem = "may be those of two axes" if axes else "are not those"
            raise CoverageError(
                f"the positions of its input {list(shape)} {problem} of the attention "
                f"mask {list(mask.shape)}"
            )
        view = [mask.shape[0], *[1] * len(positions)]
        view[1 + axes[0]] = mask.shape[1]
        spread = mask.view(view).expand(-1, *positions).flatten(1)
        rows = spread.flatten().nonzero()[:, 0]
        return (None, None) if len(rows) == spread.numel() else (spread, rows)
