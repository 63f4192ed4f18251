"""Where scoring keeps what it knows of a night, by name: these names need no model."""

# below the directory of a scoring's state: the fallback scores, the item trends, what is shown,
# what items are similar, and what a counter has counted that makes the lists
POPULAR = "popular.parquet"
TRENDS = "trends.safetensors"
SHOWN = "shown.safetensors"
SIMILAR = "similar.safetensors"
COUNTER = "counter.safetensors"
NIGHT_STATE = "state/score"
