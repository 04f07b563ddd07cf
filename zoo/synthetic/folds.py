"""Cross-validation over tasks and samples (Baugh et al., MICCAI 2023): some tasks train, the others validate."""

import itertools

import numpy as np

from zoo.errors import UserError

TASK_NAMES = ("intra_blend", "inter_blend", "sink", "source", "smooth_intensity")  # in the order of five_tasks
NUM_TASKS = len(TASK_NAMES)


def task_folds(num_train_tasks: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Training and validation tasks of every fold, in lexicographic order.

    Raises:
        UserError: a number outside 1 to 4.
    """
    if not 1 <= num_train_tasks < NUM_TASKS:
        raise UserError(f"model.num_train_tasks must be 1 to {NUM_TASKS - 1}, found {num_train_tasks}")
    everything = range(NUM_TASKS)
    return [
        (train, tuple(task for task in everything if task not in train))
        for train in itertools.combinations(everything, num_train_tasks)
    ]


def sample_fold(count: int, num_train_tasks: int, fold: int) -> tuple[list[int], list[int]]:
    """Training and validation samples of a fold: part i of five contiguous ones belongs to task i.

    The parts of the training tasks train, unless the others are strictly more: then the sides (not the tasks) swap.
    """
    parts = np.array_split(np.arange(count), NUM_TASKS)
    train, validation = (
        [int(number) for task in tasks for number in parts[task]] for tasks in task_folds(num_train_tasks)[fold]
    )
    return (validation, train) if len(validation) > len(train) else (train, validation)
