"""mmengine's runner with a quiet console, several processes on CPUs, and resumption that is bit-identical."""

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
from ghost_det.reports.training import ReportHook
from ghost_det.swap.probe import fix_ssd, without_sync_bn

from .checkpoints import ATOMIC, KeepingCheckpointHook
from .hooks import ProgressHook
from .loops import LOOP_TYPES
from .messages import BUILDING, explain_errors, name_images
from .resume import PatientWorker

# Of those of one priority, the first comes first.
OUR_HOOKS = (
    'RepeatableHook',
    'MeanLossHook',
    'LossGuardHook',
    'ProgressHook',
    'InterruptHook',
    'DueEvaluationHook',
)
# What the console leaves out; a head whose levels share convolutions is built as the duplicate says.
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
DUPLICATE = 'is duplicate. It is skipped'


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


def is_no_listing(record: logging.LogRecord) -> bool:
    """Tell whether the console shows a message; the log file has all of them."""
    text = record.getMessage()
    return not text.lstrip('\n -').startswith(LISTINGS) and DUPLICATE not in text


class GhostRunner(Runner):
    """mmengine's runner with our hooks and loops.

    Attributes:
        began: when the training was started, in nanoseconds; of a resumed one, when it was first.
        shortens_warm_up: a warm-up that is long for the training is shortened.
    """

    shortens_warm_up = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.began = time.time_ns()

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time of all the training and of the evaluations, by `ProgressHook`."""
        return next(hook for hook in self.hooks if isinstance(hook, ProgressHook)).seconds

    def resume_at_start(self, checkpoint: str) -> None:
        """Have the training resume from a checkpoint, of which the config in its work folder says nothing."""
        self._load_from, self._resume = checkpoint, True

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Resume from a checkpoint, and recompute a schedule that is not the checkpoint's."""
        try:
            fresh = states(self.param_schedulers)
            super().resume(filename, *args, **kwargs)
            line = recompute(self, fresh)
        except UserError:
            raise
        except Exception as error:  # over any part of it that is of another kind
            raise UserError(
                f'--resume: {filename}: the state in it is damaged, or of another optimizer or schedule '
                f'({" ".join(f"{type(error).__name__}: {error}".split())[:200]}); to start from only its '
                f'weights: --cfg-options load_from={filename}'
            ) from error
        if line:
            self.logger.info(line)

    def save_checkpoint(
        self, out_dir: str, filename: str, file_client_args: Any = None, **settings: Any
    ) -> None:
        """Save a checkpoint; one on a local disk is complete or not there."""
        if '://' not in out_dir and file_client_args is None and settings.get('backend_args') is None:
            settings['backend_args'] = ATOMIC
        super().save_checkpoint(out_dir, filename, file_client_args, **settings)

    def register_hooks(self, default_hooks: Any = None, custom_hooks: Any = None) -> None:
        """Register the config's hooks, and ours that it does not name."""
        default_hooks = {'checkpoint': {'type': 'CheckpointHook', 'interval': 1}, **(default_hooks or {})}
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
        """Build the logger; its console handler leaves the listings out."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(is_no_listing)
        return logger

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
                with torch.random.fork_rng(devices=[]):  # mmcv's draws weights, which it then replaces
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
            model = without_sync_bn(model)
        return fix_ssd(super().build_model(model))

    def _init_model_weights(self) -> None:
        # Random numbers fill memory in its order: a seed gives one process and many the same network.
        self.model.to(memory_format=torch.contiguous_format)
        super()._init_model_weights()

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """Build the optimizer."""
        settings = optim_wrapper.get('optimizer') if isinstance(optim_wrapper, dict) else optim_wrapper
        with explain_errors(f'{self.cfg.filename}: its optimizer, {settings}', BUILDING):
            return super().build_optim_wrapper(optim_wrapper)

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """Build the schedules; see `shortens_warm_up`."""
        line = shorten_warm_up(scheduler, self.train_loop.max_iters) if self.shortens_warm_up else None
        if line:
            self.logger.info(line)
        with self._building():
            return super().build_param_scheduler(scheduler)

    def build_train_loop(self, loop: Any) -> Any:
        """Build the training loop, mmengine's own two as those that resume exactly; log `used_boxes`."""
        if isinstance(loop, dict):
            loop = dict(loop)
            by_epoch = loop.pop('by_epoch', None)
            if by_epoch is not None:
                loop.setdefault('type', 'EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop')
        try:
            with self._building():
                built = super().build_train_loop(_our_loop(loop))
        except UserError as error:
            if 'need at least one array' not in str(error):
                raise
            raise UserError(
                'no image of train can be used: each is under min_size of its filter_cfg, or without a box'
            ) from error
        for line, is_warning in used_boxes(built.dataloader) if is_main_process() else ():
            self.logger.log(logging.WARNING if is_warning else logging.INFO, line)
        return built

    def build_val_loop(self, loop: Any) -> Any:
        """Build the loop of evaluations within a training."""
        with self._building():
            return super().build_val_loop(_our_loop(loop, 'ValLoop'))

    def build_test_loop(self, loop: Any) -> Any:
        """Build the loop of an evaluation."""
        with self._building():
            return super().build_test_loop(_our_loop(loop, 'TestLoop'))

    @staticmethod
    def build_dataloader(dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        """Build a loader without pycocotools' printed account; errors name images, its workers survive."""
        if isinstance(dataloader, dict) and not dataloader.get('num_workers'):
            dataloader = {
                **dataloader,
                'persistent_workers': False,
            }  # torch refuses them where there are none
        with contextlib.redirect_stdout(io.StringIO()):
            loader = Runner.build_dataloader(dataloader, *args, **kwargs)
        if isinstance(loader, DataLoader):
            loader.worker_init_fn = PatientWorker(loader.worker_init_fn)
        name_images(loader.dataset)
        return loader

    def _building(self) -> contextlib.AbstractContextManager[None]:
        return explain_errors(str(self.cfg.filename), BUILDING)


def _our_loop(loop: Any, default: str = '') -> Any:
    """Return the config of a loop with ours for mmengine's own."""
    if not isinstance(loop, dict):
        return loop
    kind = loop.get('type', default)
    return {**loop, 'type': LOOP_TYPES.get(kind, kind)} if kind else loop
