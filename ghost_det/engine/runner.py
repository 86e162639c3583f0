"""mmengine's runner with a quiet console, several processes on CPUs, and bit-identical resuming."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import re
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from mmdet.registry import OPTIM_WRAPPERS, OPTIMIZERS
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ghost_det.config.schedules import recompute, shorten_warm_up, states
from ghost_det.data.dataset import used_boxes
from ghost_det.errors import UserError, reason
from ghost_det.reports.training import ReportHook
from ghost_det.swap.probe import fix_ssd, without_sync_bn

from .checkpoints import KeepingCheckpointHook
from .hooks import ProgressHook
from .loops import LOOP_TYPES
from .messages import BUILDING, FIRST_STEP, name_images
from .resume import init_worker

OUR_HOOKS = (  # of one priority, the first runs first
    'RepeatableHook',
    'MeanLossHook',
    'LossGuardHook',
    'ProgressHook',
    'InterruptHook',
    'DueEvaluationHook',
    'DetectorWeightsHook',
)
# What the console leaves out; the log file has everything. Levels of a head may share ("duplicate") weights.
LISTINGS = re.compile(
    r'[\n -]*(Exp name|"FileClient"|"HardDiskBackend"|System environment|Config:|Hooks will be executed|'
    r'paramwise_options|Distributed training|Fast sampler-level resume|.* is duplicate\. It is skipped)'
)


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


class GhostRunner(Runner):
    """mmengine's runner with our hooks and loops.

    Attributes:
        began: when the training was first started, in nanoseconds.
        doing: what errors are about, for `explain_errors`.
        shortens_warm_up: whether to shorten a warm-up that is long for the training.
    """

    shortens_warm_up = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.doing = BUILDING
        self._called: set[str] = set()
        super().__init__(*args, **kwargs)
        self.began = time.time_ns()

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time of the training and of the evaluations; see `ProgressHook`."""
        return next(hook for hook in self.hooks if isinstance(hook, ProgressHook)).seconds

    def resume_at_start(self, checkpoint: str) -> None:
        """Resume from a checkpoint when the training starts; the config that is saved does not mention it."""
        self._load_from, self._resume = checkpoint, True

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Resume from a checkpoint, and recompute a schedule that is not the checkpoint's."""
        try:
            fresh = states(self.param_schedulers)
            super().resume(filename, *args, **kwargs)
            line = recompute(self, fresh)
        except UserError:
            raise
        except Exception as error:  # any part of the checkpoint may not fit
            raise UserError(
                f'--resume: {filename}: its state is damaged, or belongs to another optimizer or schedule '
                f'({reason(error)}); to start from only its weights: --cfg-options load_from={filename}'
            ) from error
        if line:
            self.logger.info(line)

    def register_hooks(self, default_hooks: Any = None, custom_hooks: Any = None) -> None:
        """Register the hooks of the config, and those of ours that it does not name."""
        default_hooks = {'checkpoint': dict(type='CheckpointHook', interval=1), **(default_hooks or {})}
        checkpoint = default_hooks['checkpoint']
        if isinstance(checkpoint, dict) and checkpoint['type'] == 'CheckpointHook':
            default_hooks['checkpoint'] = {**checkpoint, 'type': KeepingCheckpointHook}
        super().register_hooks(default_hooks, custom_hooks)
        present = {type(hook).__name__ for hook in self.hooks}
        for name in OUR_HOOKS:
            if name not in present:
                self.register_hook(dict(type=name))
        self.register_hook(ReportHook())

    def build_logger(self, *args: Any, **kwargs: Any) -> Any:
        """Build the logger, whose console leaves the listings out."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(lambda record: not LISTINGS.match(record.getMessage()))
        return logger

    def wrap_model(self, model_wrapper_cfg: Any, model: Any) -> Any:
        """Wrap the model for several processes, on CPUs too, where mmengine would name a GPU."""
        if not self.distributed or is_model_wrapper(model):
            return super().wrap_model(model_wrapper_cfg, model)
        for hook in self.cfg.get('custom_hooks') or []:
            if hook['type'] == 'ChannelsLastHook' and hook.get('enabled', True):
                model.to(memory_format=torch.channels_last)  # before the wrapper lays its gradients out
        if get_device() == 'cpu':
            unused = self.cfg.get('find_unused_parameters', False)
            defaults = dict(broadcast_buffers=False, find_unused_parameters=unused)
            model_wrapper_cfg = {'device_ids': None, **(model_wrapper_cfg or defaults)}
        # mmcv's SyncBN draws weights, which it then replaces.
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.filterwarnings('ignore', '.*broadcast_buffers', FutureWarning)  # mmengine's choice
            return super().wrap_model(model_wrapper_cfg, model)

    def build_model(self, model: Any) -> Any:
        """Build the model; in a single process, with plain batch norm for mmcv's synchronised one."""
        if isinstance(model, dict) and not self.distributed:
            model = without_sync_bn(model)
        return fix_ssd(super().build_model(model))

    def _init_model_weights(self) -> None:
        # Random numbers fill memory in its order, which should not depend on the number of processes.
        self.model.to(memory_format=torch.contiguous_format)
        super()._init_model_weights()

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """Build the optimizer; mmengine's own error about an unknown one does not name it."""
        kind = (optim_wrapper.get('optimizer') or {}).get('type') if isinstance(optim_wrapper, dict) else None
        if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:
            raise KeyError(f'{kind} is not in the optimizer registry')
        return super().build_optim_wrapper(optim_wrapper)

    def build_param_scheduler(self, scheduler: Any) -> Any:
        line = shorten_warm_up(scheduler, self.train_loop.max_iters) if self.shortens_warm_up else None
        if line:
            self.logger.info(line)
        return super().build_param_scheduler(scheduler)

    def build_train_loop(self, loop: Any) -> Any:
        """Build the training loop, one of ours for mmengine's two; log `used_boxes`."""
        if isinstance(loop, dict):
            loop = dict(loop)
            by_epoch = loop.pop('by_epoch', None)
            kind = loop.get('type', 'EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop')
            loop['type'] = LOOP_TYPES.get(kind, kind)
        try:
            built = super().build_train_loop(loop)
        except ValueError as error:
            if 'need at least one array' not in str(error):
                raise
            raise UserError(
                'no training image can be used: each has no box, or is smaller than min_size of filter_cfg'
            ) from error
        for line, is_warning in used_boxes(built.dataloader) if is_main_process() else ():
            self.logger.log(logging.WARNING if is_warning else logging.INFO, line)
        return built

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call the hooks of a place, and note what the run is doing."""
        if fn_name.endswith('_iter'):
            is_first = fn_name.startswith('before') and fn_name not in self._called
            self.doing = FIRST_STEP if is_first else ''
            self._called.add(fn_name)
        elif fn_name in ('before_train', 'before_val', 'before_test'):
            self.doing = ''
        super().call_hook(fn_name, **kwargs)

    @staticmethod
    def build_dataloader(dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        """Build a loader, without the prints of pycocotools, whose errors name images."""
        if isinstance(dataloader, dict) and not dataloader.get('num_workers'):
            dataloader = {**dataloader, 'persistent_workers': False}  # torch refuses it without workers
        with contextlib.redirect_stdout(io.StringIO()):
            loader = Runner.build_dataloader(dataloader, *args, **kwargs)
        if isinstance(loader, DataLoader):
            loader.worker_init_fn = functools.partial(init_worker, then=loader.worker_init_fn)
        name_images(loader.dataset)
        return loader
