/* A CUDA driver without a GPU: it answers Triton's questions and hands every launch to a function of Python.

   Compiled by tests/emulator/conftest.py as libcuda.so.1. Only what Triton's launcher and its queries call is here. */
#include <stddef.h>
#include <stdint.h>

typedef int Result;
typedef uint64_t Handle;
typedef struct {
  unsigned grid[3], block[3], shared_bytes;
  void *stream, *attributes;
  unsigned attribute_count;
} LaunchConfig; /* as in cuda.h and in tests/emulator/driver.py */
typedef Result (*Launched)(Handle function, const LaunchConfig *config, void **parameters);

static Launched launched;
static int capability;
static Handle last_module;

void fake_prepare(Launched callback, int compute_capability) {
  launched = callback;
  capability = compute_capability;
}

static Result set(int *target, int value) {
  *target = value;
  return 0;
}

Result cuInit(unsigned flags) { return 0; }
Result cuDriverGetVersion(int *version) { return set(version, 13000); }
Result cuDeviceGetCount(int *count) { return set(count, 1); }
Result cuDeviceGet(int *device, int ordinal) { return set(device, ordinal); }
Result cuGetErrorString(Result error, const char **text) { *text = "the emulated kernel failed"; return 0; }

Result cuDeviceGetAttribute(int *value, int attribute, int device) {
  switch (attribute) {
  case 10: return set(value, 32);         /* WARP_SIZE */
  case 12: return set(value, 65536);      /* MAX_REGISTERS_PER_BLOCK */
  case 16: return set(value, 108);        /* MULTIPROCESSOR_COUNT */
  case 75: return set(value, capability / 10); /* COMPUTE_CAPABILITY_MAJOR */
  case 76: return set(value, capability % 10); /* COMPUTE_CAPABILITY_MINOR */
  case 81: return set(value, 100 * 1024); /* MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, of the least GPU, sm_89 */
  case 97: return set(value, 99 * 1024);  /* MAX_SHARED_MEMORY_PER_BLOCK_OPTIN */
  default: return set(value, 0);
  }
}

/* One context, which is always current. */
Result cuCtxGetDevice(int *device) { return set(device, 0); }
Result cuCtxGetCurrent(void **context) { *context = &capability; return 0; }
Result cuCtxSetCurrent(void *context) { return 0; }
Result cuDevicePrimaryCtxRetain(void **context, int device) { return cuCtxGetCurrent(context); }
Result cuCtxGetLimit(size_t *value, int limit) { *value = 0; return 0; }
Result cuCtxSetLimit(int limit, size_t value) { return 0; }
Result cuStreamIsCapturing(void *stream, int *status) { return set(status, 0); }

/* A module holds one function and gives it its number. */
Result cuModuleLoadData(Handle *module, const void *image) { *module = ++last_module; return 0; }
Result cuModuleUnload(Handle module) { return 0; }
Result cuModuleGetFunction(Handle *function, Handle module, const char *name) { *function = module; return 0; }
Result cuFuncGetAttribute(int *value, int attribute, Handle function) { return set(value, attribute ? 0 : 1024); }
Result cuFuncSetAttribute(Handle function, int attribute, int value) { return 0; }
Result cuFuncSetCacheConfig(Handle function, int config) { return 0; }

/* Tensors lie in this process' memory: a pointer is its own address on the device. */
Result cuPointerGetAttribute(void *data, int attribute, Handle pointer) { *(Handle *)data = pointer; return 0; }

Result cuLaunchKernelEx(const LaunchConfig *config, Handle function, void **parameters, void **extra) {
  return launched(function, config, parameters);
}

/* The linker needs these. No kernel of ours uses clusters or tensor maps. */
Result cuPointerGetAttributes(unsigned count, int *attributes, void **data, Handle pointer) { return 801; }
Result cuOccupancyMaxActiveClusters(int *count, Handle function, const void *config) { return 801; }
Result cuTensorMapEncodeTiled(void) { return 801; }
Result cuTensorMapEncodeIm2col(void) { return 801; }
Result cuLaunchKernel(void) { return 801; }
