// mmcv's CUDA kernels, taken as C++: one thread, which is a whole block, runs each from its first index to its last.
// tools/verify_operators/test_cuda.py compiles this and starts the kernels, block by block.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdint>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__
#define __syncthreads()
#define __syncwarp()

using namespace std;

struct Index {
  unsigned x = 0, y = 0, z = 0;
};
struct float4 {
  float x, y, z, w;
};
// The kernels have forms for float16 beside those for any type; none of these is started.
struct phalf {
  float value;
  phalf &operator=(float other) { return value = other, *this; }
  explicit phalf(float other) : value(other) {}
  operator float() const { return value; }
};

extern "C" Index blockIdx;
Index blockIdx;
static Index threadIdx, blockDim{1, 1, 1}, gridDim{1, 1, 1};

template <typename T>
void atomicAdd(T *sum, T term) {
  *sum += term;
}

#include "common_cuda_helper.hpp"
//
#include "bbox_overlaps_cuda_kernel.cuh"
#include "carafe_naive_cuda_kernel.cuh"
#include "deform_roi_pool_cuda_kernel.cuh"
#include "masked_conv2d_cuda_kernel.cuh"
#include "ms_deform_attn_cuda_kernel.cuh"
#include "roi_align_cuda_kernel.cuh"
#include "sigmoid_focal_loss_cuda_kernel.cuh"
#include "sync_bn_cuda_kernel.cuh"

#define KERNEL(name) void *name##_ = reinterpret_cast<void *>(&name<float>);

extern "C" {
KERNEL(MaskedCol2imForward)
KERNEL(MaskedIm2colForward)
KERNEL(bbox_overlaps_cuda_kernel)
KERNEL(carafe_naive_backward_cuda_kernel)
KERNEL(carafe_naive_forward_cuda_kernel)
KERNEL(deform_roi_pool_backward_cuda_kernel)
KERNEL(deform_roi_pool_forward_cuda_kernel)
KERNEL(ms_deformable_col2im_gpu_kernel_gm)
KERNEL(ms_deformable_im2col_gpu_kernel)
KERNEL(roi_align_backward_cuda_kernel)
KERNEL(roi_align_forward_cuda_kernel)
KERNEL(sigmoid_focal_loss_backward_cuda_kernel)
KERNEL(sigmoid_focal_loss_forward_cuda_kernel)
KERNEL(sync_bn_backward_data_cuda_kernel)
KERNEL(sync_bn_backward_param_cuda_kernel)
KERNEL(sync_bn_forward_mean_cuda_kernel)
KERNEL(sync_bn_forward_output_cuda_kernel)
KERNEL(sync_bn_forward_var_cuda_kernel)
}
