"""Pictures as batches: image folders, WebDataset shards, and two sets that need no download.

::

    from flexvar.data import DataConfig, batches, open_data, ordered_batches

    train = open_data(DataConfig(source="photos", size=64), "train")
    train.num_classes, train.class_names    # 16, ("astronaut", "bricks", ...)
    train.size, len(train)                  # (64, 64), 1024 samples an epoch
    image_3HW, label = train[0]             # fp32 in [-1,1], int

    for batch in batches(train, batch_size=8, seed=0):    # never ends
        batch.images_B3HW, batch.labels_B                 # fp32 in [-1,1], int64

    val = open_data(train.config, "val")
    for batch in ordered_batches(val, batch_size=8):               # once over, in order
        ...

The null label of a model is ``num_classes``, as everywhere. What a sample looks like depends on
(seed, epoch, number) alone. So `batches` gives the same stream whatever the number of workers;
``start=n`` goes on after the n-th batch as if it had never stopped; and the batches of ``world``
ranks, joined in order of rank, are those of one process with ``world`` times the batch size.
Making or advancing the iterators touches no global random state.

A picture that cannot be read is warned about once, counted in ``dataset.unreadable`` (name ->
reason), and replaced in training by another one that the key determines; `ordered_batches`
leaves it out, so that its last batches may be smaller.
"""

from flexvar.data.config import DataConfig
from flexvar.data.dataset import Dataset, Sample, open_data
from flexvar.data.loader import Batch, batches, ordered_batches
from flexvar.data.sampler import Key

__all__ = [
    "Batch",
    "DataConfig",
    "Dataset",
    "Key",
    "Sample",
    "batches",
    "open_data",
    "ordered_batches",
]
