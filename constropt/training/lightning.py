"""A Lightning callback that takes the dual step of a constrained loss after each epoch of training."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from constropt.checks import MissingExtra, got, require_whole
from constropt.training.batches import Predict
from constropt.training.loss import ConstrainedLoss

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback
else:
    try:
        from lightning.pytorch.callbacks import Callback
    except ImportError:
        Callback = object


class DualUpdates(Callback):
    """Calls ``criterion.update_duals(module, loader)`` at the end of every ``every``-th training epoch.

    ``criterion`` is the :class:`ConstrainedLoss` itself or the name of the module's attribute that holds it: as an
    attribute it is in Lightning's checkpoints. ``loader`` is the held-out data; without one the validation loader of
    the trainer is used, the first if there are several. ``predict(module, batch) -> (output, target)`` as in
    :meth:`ConstrainedLoss.update_duals`. In a distributed run each process passes over what its loader gives it.

    Raises :class:`~constropt.checks.MissingExtra` where Lightning is not installed, and ``ValueError`` at the start of
    the fit when there is no criterion under that name, or no loader::

        trainer = lightning.Trainer(callbacks=[DualUpdates("criterion")])
        trainer.fit(module, train_loader, validation_loader)
    """

    def __init__(
        self,
        criterion: ConstrainedLoss | str = "criterion",
        loader: Iterable[Any] | None = None,
        *,
        predict: Predict | None = None,
        every: int = 1,
    ) -> None:
        if Callback is object:
            raise MissingExtra("DualUpdates needs Lightning: pip install 'constropt[lightning]'")
        require_whole(every=every)
        super().__init__()
        self.criterion, self.loader, self.predict, self.every = criterion, loader, predict, every

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Find what will be needed, before the first epoch is spent."""
        self._criterion(pl_module)
        if self.loader is None and not trainer.val_dataloaders:
            raise ValueError("loader: give DualUpdates(loader=...) or trainer.fit(...) held-out data; got neither")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """The dual step."""
        if (trainer.current_epoch + 1) % self.every:
            return
        loader = self.loader if self.loader is not None else trainer.val_dataloaders
        loader = loader[0] if isinstance(loader, (list, tuple)) else loader
        self._criterion(pl_module).update_duals(pl_module, loader, predict=self.predict)  # type: ignore[arg-type]

    def _criterion(self, module: Any) -> ConstrainedLoss:
        found = getattr(module, self.criterion, None) if isinstance(self.criterion, str) else self.criterion
        if not isinstance(found, ConstrainedLoss):
            takes = "a ConstrainedLoss or the name of the module's attribute that holds one"
            raise ValueError(f"criterion: takes {takes}; got {self.criterion!r}, which is {got(found)}")
        return found
