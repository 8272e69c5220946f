"""scikit-learn: maps as a transformer of features.

Needs the extra ``fastmap[sklearn]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastmap._extras import need
from fastmap._functional import Array, elementwise
from fastmap._map import Map, MapLike, resolve
from fastmap._native import FloatArray, Invalid
from fastmap._suggest import suggest

need("sklearn", "sklearn")
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin  # noqa: E402
from sklearn.utils.validation import (  # noqa: E402
    FLOAT_DTYPES,
    check_array,
    check_is_fitted,
    validate_data,
)


class MapTransformer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Features to the space of a map, and back.

    Parameters
    ----------
    map : Map, str or sequence of them, default="auto"
        One map for all features (its parameters may be arrays, one number per feature), or one per feature.
        "auto": what `fastmap.suggest` answers for the values of each feature in `fit`; identity where they do
        not carry another map.
    invalid : {"raise", "nan", "clip"}, default="raise"
        What becomes of values outside the domain, which later data may hold: see `fastmap.forward`.

    Attributes
    ----------
    maps_ : list of Map
        One per feature, or a single one for all.
    suggestions_ : list of Suggestion
        With "auto": the scores and the reason for each feature.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, where X has any.

    Notes
    -----
    float32 stays float32.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmap.sklearn import MapTransformer
    >>> X = np.exp(np.random.default_rng(0).normal(size=(100, 1)))
    >>> MapTransformer().fit(X).maps_
    [Log(low=0.0)]
    """

    def __init__(self, map: MapLike | Sequence[MapLike] = "auto", *, invalid: Invalid = "raise") -> None:
        self.map = map
        self.invalid = invalid

    def fit(self, X: Any, y: Any = None) -> MapTransformer:
        """Choose the maps, or check those that are given against X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Finite real numbers.
        y : None
            Ignored.

        Raises
        ------
        DomainError
            With ``invalid="raise"``: values that a given map cannot take.
        ValueError
            The number of maps is not that of the features.
        """
        X = validate_data(self, X, dtype=FLOAT_DTYPES)
        if isinstance(self.map, str) and self.map == "auto":
            self.suggestions_ = [suggest(samples=column) for column in X.T]
            self.maps_ = [suggestion.map for suggestion in self.suggestions_]
            return self
        given = self.map if isinstance(self.map, Sequence) and not isinstance(self.map, str) else [self.map]
        self.maps_ = [resolve(m) for m in given]
        if given is self.map and len(given) != X.shape[1]:
            raise ValueError(f"map: {len(given)} maps for {X.shape[1]} features")
        self._mapped("forward", X, self.invalid)
        return self

    def transform(self, X: Any) -> Any:
        """z = f(theta), feature by feature.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_features)
        """
        check_is_fitted(self)
        return self._mapped("forward", validate_data(self, X, dtype=FLOAT_DTYPES, reset=False), self.invalid)

    def inverse_transform(self, X: Any) -> Any:
        """theta = f⁻¹(z): undoes `transform`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            z. What a map cannot reach is a `fastmap.DomainError`, or clipped with ``invalid="clip"``.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
        """
        check_is_fitted(self)
        return self._mapped("inverse", check_array(X, dtype=FLOAT_DTYPES), self.invalid)

    def _mapped(self, op: str, X: FloatArray, invalid: Invalid) -> Array:
        maps: list[Map] = self.maps_
        if all(m == maps[0] for m in maps):
            return elementwise(op, "X", X, maps[0], None, invalid)
        result = np.empty_like(X, order="F")  # a feature is a stretch of memory
        for j, m in enumerate(maps):
            elementwise(op, f"X[:, {j}]", X[:, j], m, result[:, j], invalid)
        return result
