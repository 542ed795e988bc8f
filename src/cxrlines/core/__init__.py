"""Types and arithmetic that all else rests on. No torch, no pydicom, no OpenCV is imported by importing this package.

What it offers, by module: `film` (Film and its errors), `quality`, `spacing`, `notes`, `findings` (types of results);
`transform` (Affine), `polyline`, `heatmaps`, `line_drawing`, `rules` (geometry), `nearest` (exact search); `errors`,
`text` (messages); `files` (atomic writes, checks of outputs), `lossless` (results as JSON without rounding),
`toml_file` (settings of services); `pool`, `processes` (work in other processes), `counted` (its progress).
"""
