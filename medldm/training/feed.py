"""Batches ahead of the network: drawn in the process itself, or by workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from medldm.errors import MedldmError, RunError
from medldm.training.batches import Batch


class _Steps(Dataset[Batch]):
    def __init__(self, make: Callable[[int], Batch]) -> None:
        self.make = make

    def __getitem__(self, step: int) -> Batch:
        return self.make(step)


def _as_is(batch: Any) -> Any:
    return batch


def feed(
    make: Callable[[int], Batch], steps: range, workers: int, scans_of: Callable[[int], list[str]], where: str
) -> Iterator[tuple[int, Batch]]:
    """Yield (step, batch) in order; the batches are the same however many workers draw them.

    Raises RunError naming step and scans where a batch cannot be drawn, or its worker died.
    """
    loader = (
        map(make, steps)
        if workers == 0
        else DataLoader(
            _Steps(make),
            sampler=steps,
            batch_size=None,
            num_workers=workers,
            collate_fn=_as_is,
            multiprocessing_context="fork",  # scans are shared, not copied
        )
    )
    drawn = iter(loader)
    for step in steps:
        try:
            batch = next(drawn)
        except StopIteration:  # pragma: no cover - as many batches as steps
            return
        except MedldmError:
            raise
        except Exception as failure:
            reason = (str(failure).splitlines() or [""])[-1][:120] or type(failure).__name__
            scans = "; ".join(scans_of(step))
            raise RunError(f"{where}, step {step}, {scans}", reason, "a batch", "look at these scans") from None
        yield step, batch
