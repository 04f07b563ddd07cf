"""What a checkpoint says of the place in the training: settled so that going on equals not having stopped.

Lightning counts a batch as completed after the hooks that write checkpoints. From a checkpoint written at an epoch's
last batch it goes on with the next epoch: the validation and the end of the epoch that were still to come are left out,
and its counters of epochs begun stay one behind, so that a second resume at a last batch trains that epoch again. From
one written at an epoch's end it ends the epoch again and leaves out one order of the images.
"""

from typing import Any

Loops = dict[str, Any]  # state of the fit loop, as a checkpoint keeps it
_BATCH, _EPOCH, _VALIDATION = "epoch_loop.batch_progress", "epoch_progress", "epoch_loop.val_loop.batch_progress"


def at_batch_end(loops: Loops) -> bool:
    """Whether the state is that of a training batch's end, before what comes between two batches."""
    total = loops[_BATCH]["total"]
    return bool(total["processed"] == total["completed"] + 1)


def at_epoch_end(loops: Loops) -> bool:
    """Whether the state is that of an epoch's end, after its validation."""
    total = loops[_EPOCH]["total"]
    return bool(total["processed"] == total["completed"] + 1)


def end_epoch(loops: Loops, *, counted_again: bool) -> None:
    """Say that the epoch is over, and that the next one has not been begun.

    Args:
        loops: of an epoch's end; changed in place.
        counted_again: Lightning, when it goes on, takes the place before the first batch for one after a validation,
            and counts a step.
    """
    for progress in (loops[_EPOCH]["total"], loops[_EPOCH]["current"]):
        progress["completed"] = progress["processed"]
    loops[_BATCH]["current"] = dict.fromkeys(loops[_BATCH]["current"], 0)
    loops[_BATCH]["is_last_batch"] = False
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= int(counted_again)


def count_epoch(loops: Loops) -> None:
    """Count the epoch that a training batch's end or a validation lies in as begun."""
    for progress in (loops[_EPOCH]["total"], loops[_EPOCH]["current"]):
        progress["ready"] = progress["started"] = progress["processed"] + 1


def settle(loops: Loops, *, last: bool, validation_due: bool) -> None:
    """Say that the batch is done, and what is still to come before the next one.

    Args:
        loops: of a training batch's end or of a validation; changed in place.
        last: the batch was its epoch's last.
        validation_due: validation comes after this batch, and has not been finished.
    """
    count_epoch(loops)
    ended = at_batch_end(loops)
    if not (last and ended) and not validation_due:
        return  # there Lightning goes on as it should
    batch, validation = loops[_BATCH], loops[_VALIDATION]
    for progress in (batch["total"], batch["current"]):
        progress["completed"] = progress["processed"]
    begun = int(validation_due)  # an evaluation that was begun and has done nothing is run from its first batch
    validation["total"] = {"ready": begun, "started": begun, "processed": 0, "completed": 0}
    validation["current"] = dict.fromkeys(validation["total"], 0)
    validation["is_last_batch"] = False
    if not validation_due:  # nothing will be run that counts the step
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
