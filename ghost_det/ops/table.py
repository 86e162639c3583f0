"""The table of stand-ins for mmcv's operators: all that the model families of mmdet call.

Their signatures are those of the C++ operators, so the buffers that mmcv allocates (``output``, ``argmax``,
``grad_input``, ``dets``) are filled in place. float16 and bfloat16 tensors are computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

from . import attention, boxes, carafe, deform, losses, regions, sync_bn

# Every public function of these modules is an operator.
_MODULES = (attention, boxes, carafe, deform, losses, regions, sync_bn)
STAND_INS: dict[str, Callable[..., Any]] = {
    'get_compiler_version': lambda: 'n/a',
    'get_compiling_cuda_version': lambda: 'n/a',
    **{
        name: function
        for module in _MODULES
        for name, function in vars(module).items()
        if isinstance(function, FunctionType) and function.__module__ == module.__name__ and name[0] != '_'
    },
}
