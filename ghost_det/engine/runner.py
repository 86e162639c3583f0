"""What ghost_det adds to mmengine's engine: memory layout, a progress bar, a shorter console."""

from __future__ import annotations

import contextlib
import io
import logging
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from mmdet.registry import MODEL_WRAPPERS, OPTIM_WRAPPERS
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.model import convert_sync_batchnorm, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch.nn import SyncBatchNorm
from torch.utils.data import DataLoader

from ghost_det.config.schedules import recompute, shorten_warm_up, states
from ghost_det.data.dataset import used_boxes
from ghost_det.errors import UserError
from ghost_det.swap.probe import alone, fix_ssd

from .checkpoints import ATOMIC, KeepingCheckpointHook
from .messages import name_images
from .resume import LOOP_TYPES, PatientWorker


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

    def save_checkpoint(self, out_dir: str, filename: str, client: Any = None, **settings: Any) -> None:
        """Save a checkpoint; one on a local disk is complete or not there."""
        if '://' not in out_dir and client is None and settings.get('backend_args') is None:
            settings['backend_args'] = ATOMIC
        super().save_checkpoint(out_dir, filename, client, **settings)

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
        if isinstance(model, dict) and not self.distributed:
            model = alone(model)
        return fix_ssd(super().build_model(model))

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
