"""What ghost_det adds to mmengine's engine: memory layout, a progress bar, a shorter console."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from mmdet.registry import HOOKS, MODEL_WRAPPERS, OPTIM_WRAPPERS
from mmengine.device import get_device
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.model import convert_sync_batchnorm, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch.nn import SyncBatchNorm
from torch.utils.data import DataLoader
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ghost_det.config.schedules import recompute, shorten_warm_up, states
from ghost_det.data.dataset import used_boxes
from ghost_det.errors import UserError
from ghost_det.models.optimize import optimize
from ghost_det.reports.training import report_evaluation
from ghost_det.swap.probe import alone

from .checkpoints import KeepingCheckpointHook
from .messages import name_images
from .resume import LOOP_TYPES, PatientWorker


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Lay the model's weights out channels-last, which every convolution's output then follows.

    Args:
        enabled: the switch.
    """

    priority = 'VERY_HIGH'

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    def _apply(self, runner: Any) -> None:
        if self.enabled:
            runner.model.to(memory_format=torch.channels_last)

    before_train = before_val = before_test = _apply


@HOOKS.register_module()
class OptimizeHook(Hook):
    """Make the model faster before a test, by `ghost_det.optimize`; its weights are loaded by then."""

    def before_test(self, runner: Any) -> None:
        """Fold the model's norms and branches, in place."""
        optimize(runner.model.eval())


@HOOKS.register_module()
class ProgressHook(Hook):
    """tqdm's bar, with the time left, over training and evaluation; nothing where stderr is no terminal.

    mmengine's log lines, which carry the losses and the time left as well, go on above the bar.

    Attributes:
        seconds: wall time of the whole training, and of the evaluations within it.
    """

    priority = 'LOW'

    def __init__(self) -> None:
        self.seconds = {'train': 0.0, 'evaluate': 0.0}
        self._bars: list[tuple[str, tqdm[Any], float]] = []
        self._redirect: Any = None

    def _open(self, runner: Any, name: str, total: int, done: int = 0) -> None:
        hidden = not (is_main_process() and sys.stderr and sys.stderr.isatty())  # None where it is closed
        if self._redirect is None and not hidden:  # it forgets which levels the console shows
            self._redirect = logging_redirect_tqdm([runner.logger])
            self._redirect.__enter__()
        bar = tqdm(total=total, initial=done, desc=name, unit='it', leave=name == 'train', disable=hidden)
        self._bars.append((name, bar, time.perf_counter()))

    def _close(self) -> None:
        name, bar, opened = self._bars.pop()
        bar.close()
        self.seconds[name] += time.perf_counter() - opened
        if not self._bars and self._redirect is not None:
            self._redirect.__exit__(None, None, None)
            self._redirect = None

    def before_train(self, runner: Any) -> None:
        """Open the bar of the whole training."""
        self._open(runner, 'train', runner.max_iters, runner.iter)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Move the bar and show the loss."""
        bar = self._bars[-1][1]
        if outputs and not bar.disable:
            bar.set_postfix(epoch=runner.epoch + 1, loss=f'{float(outputs["loss"]):.3f}', refresh=False)
        bar.update()

    def after_train(self, runner: Any) -> None:
        """Close the bar."""
        self._close()

    def before_val_epoch(self, runner: Any) -> None:
        """Open the bar of one evaluation, under the training's."""
        self._open(runner, 'evaluate', len(runner.val_dataloader))

    def before_test_epoch(self, runner: Any) -> None:
        """Open the bar of one evaluation."""
        self._open(runner, 'evaluate', len(runner.test_dataloader))

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Move the bar."""
        self._bars[-1][1].update()

    after_test_iter = after_val_iter

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Close the bar."""
        self._close()

    after_test_epoch = after_val_epoch


@HOOKS.register_module()
class ReportHook(Hook):
    """Write ``report.json`` after each evaluation of a training, by which an unfinished one is compared."""

    priority = 'VERY_LOW'  # the log has the figures by then

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Write what is known so far."""
        report_evaluation(runner)


@HOOKS.register_module()
class MeanLossHook(Hook):
    """Log the mean of the losses of all processes, where mmengine logs those of the first."""

    priority = 'HIGHEST'  # before what reads them

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Replace each loss by the mean over the processes, all in one exchange."""
        losses = {key: value for key, value in (outputs or {}).items() if isinstance(value, torch.Tensor)}
        if outputs is None or not losses or get_world_size() == 1:
            return
        values = torch.stack([value.detach().float().mean() for value in losses.values()])
        all_reduce(values, op='mean')
        outputs.update(zip(losses, values))


@OPTIM_WRAPPERS.register_module()
class Bf16OptimWrapper(OptimWrapper):
    """Mixed precision on a CPU: forward passes in bfloat16, which needs no loss scale.

    mmengine's own ``AmpOptimWrapper`` refuses to run without a GPU.
    """

    @contextlib.contextmanager
    def optim_context(self, model: torch.nn.Module) -> Iterator[None]:
        """Run the forward pass of a training step under autocast."""
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


class ConsoleRunner(Runner):
    """mmengine's runner with a quiet console: what a person at the terminal has no use for is not shown.

    The log file still has all of it: environment, config, hooks, and mmengine's advice to its own callers.

    Attributes:
        began: when the training was started, in nanoseconds; of a resumed one, when it was first.
        shortens_warm_up: a warm-up that is long for the training is shortened.
    """

    shortens_warm_up = False

    LISTINGS = (
        'Exp name',
        '"FileClient"',
        '"HardDiskBackend"',
        'System environment',
        'Config:',
        'Hooks will be executed',
        'paramwise_options',
        'Distributed training',
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.began = time.time_ns()

    def resume_at_start(self, checkpoint: str) -> None:
        """Have the training go on from a checkpoint, of which the config written beside it says nothing."""
        self._load_from, self._resume = checkpoint, True

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Go on from a checkpoint.

        Raises:
            UserError: its parts are not what this training's would be.
        """
        try:
            fresh = states(self.param_schedulers)
            super().resume(filename, *args, **kwargs)
            line = recompute(self, fresh)
        except UserError:
            raise
        except Exception as error:  # over any part of it that is of another kind
            raise UserError(
                f'--resume: {filename}: the state in it is damaged, or of another optimizer or schedule '
                f'({" ".join(f"{type(error).__name__}: {error}".split())[:200]}); to start from its weights '
                f'alone: --cfg-options load_from={filename}'
            ) from error
        if line:
            self.logger.info(line)

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """Build the schedules; see `shortens_warm_up`."""
        line = shorten_warm_up(scheduler, self.train_loop.max_iters) if self.shortens_warm_up else None
        if line:
            self.logger.info(line)
        return super().build_param_scheduler(scheduler)

    def build_logger(self, *args: Any, **kwargs: Any) -> Any:
        """Build the logger; its console handler leaves the listings out."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(self._is_no_listing)
        return logger

    @classmethod
    def _is_no_listing(cls, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        # A head whose levels share convolutions is built so, and its config then says bypass_duplicate=True.
        return not text.lstrip('\n -').startswith(cls.LISTINGS) and 'is duplicate. It is skipped' not in text

    def wrap_model(self, model_wrapper_cfg: Any, model: Any) -> Any:
        """Wrap the model for several processes; on CPUs too, where mmengine's would name a GPU."""
        if not self.distributed or is_model_wrapper(model):
            return super().wrap_model(model_wrapper_cfg, model)
        for hook in self.cfg.get('custom_hooks') or []:
            if hook['type'] == 'ChannelsLastHook' and hook.get('enabled', True):
                model.to(memory_format=torch.channels_last)  # the wrapper lays its gradients out alike
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', '.*broadcast_buffers', FutureWarning)  # mmengine's choice
            if get_device() != 'cpu':
                return super().wrap_model(model_wrapper_cfg, model)
            if self.cfg.get('sync_bn'):
                model = convert_sync_batchnorm(model, self.cfg.sync_bn)
            if any(isinstance(module, SyncBatchNorm) for module in model.modules()):
                raise UserError(
                    "torch's SyncBatchNorm needs GPUs; on CPUs take mmcv's: sync_bn=mmcv or type='MMSyncBN'"
                )
            wrapper = model_wrapper_cfg or {
                'broadcast_buffers': False,
                'find_unused_parameters': self.cfg.get('find_unused_parameters', False),
            }
            wrapper = {'type': 'MMDistributedDataParallel', **wrapper}
            return MODEL_WRAPPERS.build(wrapper, default_args=dict(module=model))

    def build_model(self, model: Any) -> Any:
        """Build the model; of one process, with plain batch norm in place of mmcv's synchronised one."""
        return super().build_model(model if self.distributed or not isinstance(model, dict) else alone(model))

    def _init_model_weights(self) -> None:
        # Random numbers fill memory in its order: a seed gives one process and many the same network.
        self.model.to(memory_format=torch.contiguous_format)
        super()._init_model_weights()

    @staticmethod
    def build_dataloader(*args: Any, **kwargs: Any) -> Any:
        """Build a loader without pycocotools' printed account; errors name images, its workers survive."""
        with contextlib.redirect_stdout(io.StringIO()):
            loader = Runner.build_dataloader(*args, **kwargs)
        if isinstance(loader, DataLoader):
            loader.worker_init_fn = PatientWorker(loader.worker_init_fn)
        name_images(loader.dataset)
        return loader

    def build_train_loop(self, loop: Any) -> Any:
        """Build the training loop, mmengine's own two as those that resume exactly; log `used_boxes`.

        Raises:
            UserError: no box or image can be used.
        """
        if isinstance(loop, dict):
            loop = dict(loop)
            by_epoch = loop.pop('by_epoch', None)
            if by_epoch is not None:
                loop.setdefault('type', 'EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop')
            loop['type'] = LOOP_TYPES.get(loop.get('type'), loop.get('type'))
        try:
            built = super().build_train_loop(loop)
        except ValueError as error:
            if 'need at least one array' not in str(error):
                raise
            raise UserError(
                'no image of train can be used: each is under min_size of its filter_cfg, or without a box'
            ) from error
        for line, is_warning in used_boxes(built.dataloader) if is_main_process() else ():
            self.logger.log(logging.WARNING if is_warning else logging.INFO, line)
        return built

    def register_default_hooks(self, hooks: Any = None) -> None:
        """Register mmengine's hooks, with checkpoints of which the old one goes when the new one is there."""
        hooks = {'checkpoint': {'type': 'CheckpointHook', 'interval': 1}, **(hooks or {})}
        checkpoint = hooks['checkpoint']
        if isinstance(checkpoint, dict) and checkpoint['type'] == 'CheckpointHook':
            hooks['checkpoint'] = {**checkpoint, 'type': KeepingCheckpointHook}
        super().register_default_hooks(hooks)
