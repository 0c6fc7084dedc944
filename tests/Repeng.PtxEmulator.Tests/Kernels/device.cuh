// What the test kernels need of CUDA's headers; they compile without an SDK.
#pragma once
#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __shared__ __attribute__((shared))
#define __constant__ __attribute__((constant))
#define __launch_bounds__(n) __attribute__((launch_bounds(n)))
#define DI __device__ __attribute__((always_inline)) inline

#define threadIdx_x __nvvm_read_ptx_sreg_tid_x()
#define threadIdx_y __nvvm_read_ptx_sreg_tid_y()
#define blockIdx_x __nvvm_read_ptx_sreg_ctaid_x()
#define blockIdx_y __nvvm_read_ptx_sreg_ctaid_y()
#define blockDim_x __nvvm_read_ptx_sreg_ntid_x()
#define gridDim_x __nvvm_read_ptx_sreg_nctaid_x()

DI void sync_threads() { __nvvm_bar_sync(0); }
DI float exp2_approx(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DI float rsqrt_approx(float x) { float y; asm("rsqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DI float shfl_down(float x, int by) { return __nvvm_shfl_sync_down_f32(0xffffffffu, x, by, 31); }
DI float shfl_xor(float x, int by) { return __nvvm_shfl_sync_bfly_f32(0xffffffffu, x, by, 31); }
DI unsigned smem_address(const void* p) { return (unsigned)(unsigned long long)(const void __attribute__((address_space(3)))*)p; }
