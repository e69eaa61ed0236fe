//! The driver's functions by address. Names, types and numbers are those of `cuda.h`.

use std::ffi::{c_char, c_void};

use libloading::Library;

use super::NoDriver;

/// A pointer to something of the driver's.
pub(super) type Handle = *mut c_void;

/// `cuGetErrorName` and `cuGetErrorString`.
pub(super) type GetErrorText = unsafe extern "C" fn(i32, *mut *const c_char) -> i32;

/// `CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT`.
pub(super) const MULTIPROCESSORS: i32 = 16;
/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR`.
pub(super) const CAPABILITY_MAJOR: i32 = 75;
/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR`.
pub(super) const CAPABILITY_MINOR: i32 = 76;
/// `CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR`.
pub(super) const SHARED_PER_MULTIPROCESSOR: i32 = 81;
/// `CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN`.
pub(super) const SHARED_PER_BLOCK_OPTIN: i32 = 97;
/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
pub(super) const MAX_DYNAMIC_SHARED: i32 = 8;

/// `CUlaunchAttribute`: a number, padding, and a value of 64 bytes.
#[repr(C, align(8))]
pub(super) struct LaunchAttribute {
    id: i32,
    pad: i32,
    value: [i32; 16],
}

impl LaunchAttribute {
    /// `CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION`, allowed.
    pub(super) fn overlap() -> LaunchAttribute {
        let mut value = [0; 16];
        value[0] = 1;
        LaunchAttribute { id: 6, pad: 0, value }
    }
}

/// `CUlaunchConfig`.
#[repr(C)]
pub(super) struct LaunchConfig {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
    pub stream: Handle,
    pub attributes: *mut LaunchAttribute,
    pub n_attributes: u32,
}

/// Every function, resolved.
pub(super) struct Api {
    pub init: unsafe extern "C" fn(u32) -> i32,
    pub driver_get_version: unsafe extern "C" fn(*mut i32) -> i32,
    pub get_error_name: unsafe extern "C" fn(i32, *mut *const c_char) -> i32,
    pub get_error_string: unsafe extern "C" fn(i32, *mut *const c_char) -> i32,
    pub device_get_count: unsafe extern "C" fn(*mut i32) -> i32,
    pub device_get: unsafe extern "C" fn(*mut i32, i32) -> i32,
    pub device_get_name: unsafe extern "C" fn(*mut c_char, i32, i32) -> i32,
    pub device_get_uuid: unsafe extern "C" fn(*mut c_void, i32) -> i32,
    pub device_total_mem: unsafe extern "C" fn(*mut usize, i32) -> i32,
    pub device_get_attribute: unsafe extern "C" fn(*mut i32, i32, i32) -> i32,
    pub primary_ctx_retain: unsafe extern "C" fn(*mut Handle, i32) -> i32,
    pub primary_ctx_release: unsafe extern "C" fn(i32) -> i32,
    pub ctx_set_current: unsafe extern "C" fn(Handle) -> i32,
    pub mem_get_info: unsafe extern "C" fn(*mut usize, *mut usize) -> i32,
    pub mem_alloc: unsafe extern "C" fn(*mut u64, usize) -> i32,
    pub mem_free: unsafe extern "C" fn(u64) -> i32,
    pub mem_alloc_host: unsafe extern "C" fn(*mut Handle, usize) -> i32,
    pub mem_free_host: unsafe extern "C" fn(Handle) -> i32,
    pub memcpy_htod_async: unsafe extern "C" fn(u64, *const c_void, usize, Handle) -> i32,
    pub memcpy_dtoh_async: unsafe extern "C" fn(Handle, u64, usize, Handle) -> i32,
    pub memset_d8_async: unsafe extern "C" fn(u64, u8, usize, Handle) -> i32,
    pub stream_create: unsafe extern "C" fn(*mut Handle, u32) -> i32,
    pub stream_destroy: unsafe extern "C" fn(Handle) -> i32,
    pub stream_synchronize: unsafe extern "C" fn(Handle) -> i32,
    pub stream_begin_capture: unsafe extern "C" fn(Handle, u32) -> i32,
    pub stream_end_capture: unsafe extern "C" fn(Handle, *mut Handle) -> i32,
    pub graph_instantiate: unsafe extern "C" fn(*mut Handle, Handle, u64) -> i32,
    pub graph_launch: unsafe extern "C" fn(Handle, Handle) -> i32,
    pub graph_destroy: unsafe extern "C" fn(Handle) -> i32,
    pub graph_exec_destroy: unsafe extern "C" fn(Handle) -> i32,
    pub event_create: unsafe extern "C" fn(*mut Handle, u32) -> i32,
    pub event_record: unsafe extern "C" fn(Handle, Handle) -> i32,
    pub event_synchronize: unsafe extern "C" fn(Handle) -> i32,
    pub event_elapsed_time: unsafe extern "C" fn(*mut f32, Handle, Handle) -> i32,
    pub event_destroy: unsafe extern "C" fn(Handle) -> i32,
    pub module_load_data: unsafe extern "C" fn(*mut Handle, *const c_void) -> i32,
    pub module_unload: unsafe extern "C" fn(Handle) -> i32,
    pub module_get_function: unsafe extern "C" fn(*mut Handle, Handle, *const c_char) -> i32,
    pub func_set_attribute: unsafe extern "C" fn(Handle, i32, i32) -> i32,
    pub launch_kernel_ex:
        unsafe extern "C" fn(*const LaunchConfig, Handle, *mut Handle, *mut Handle) -> i32,
    pub link_create: unsafe extern "C" fn(u32, Handle, Handle, *mut Handle) -> i32,
    pub link_add_data:
        unsafe extern "C" fn(Handle, i32, Handle, usize, *const c_char, u32, Handle, Handle) -> i32,
    pub link_complete: unsafe extern "C" fn(Handle, *mut Handle, *mut usize) -> i32,
    pub link_destroy: unsafe extern "C" fn(Handle) -> i32,
    /// Keeps the functions where they are.
    _library: Library,
}

const NAMES: [&str; 2] =
    if cfg!(windows) { ["nvcuda.dll", "nvcuda.dll"] } else { ["libcuda.so.1", "libcuda.so"] };

impl Api {
    /// Opens the library and resolves every function.
    #[rustfmt::skip]
    pub(super) fn open() -> Result<Api, NoDriver> {
        // SAFETY: opening runs the initialisers of NVIDIA's driver, which any program may.
        let library = NAMES.into_iter().find_map(|name| unsafe { Library::new(name) }.ok());
        let library = library.ok_or(NoDriver::Missing)?;
        macro_rules! resolve {
            ($name:literal) => {
                // SAFETY: the field that takes it has the type that `cuda.h` gives the function.
                match unsafe { library.get(concat!($name, "\0").as_bytes()) } {
                    Ok(symbol) => *symbol,
                    Err(_) => return Err(NoDriver::TooOld { found: "before 12".into() }),
                }
            };
        }
        Ok(Api {
            init: resolve!("cuInit"),
            driver_get_version: resolve!("cuDriverGetVersion"),
            get_error_name: resolve!("cuGetErrorName"),
            get_error_string: resolve!("cuGetErrorString"),
            device_get_count: resolve!("cuDeviceGetCount"),
            device_get: resolve!("cuDeviceGet"),
            device_get_name: resolve!("cuDeviceGetName"),
            device_get_uuid: resolve!("cuDeviceGetUuid_v2"),
            device_total_mem: resolve!("cuDeviceTotalMem_v2"),
            device_get_attribute: resolve!("cuDeviceGetAttribute"),
            primary_ctx_retain: resolve!("cuDevicePrimaryCtxRetain"),
            primary_ctx_release: resolve!("cuDevicePrimaryCtxRelease_v2"),
            ctx_set_current: resolve!("cuCtxSetCurrent"),
            mem_get_info: resolve!("cuMemGetInfo_v2"),
            mem_alloc: resolve!("cuMemAlloc_v2"),
            mem_free: resolve!("cuMemFree_v2"),
            mem_alloc_host: resolve!("cuMemAllocHost_v2"),
            mem_free_host: resolve!("cuMemFreeHost"),
            memcpy_htod_async: resolve!("cuMemcpyHtoDAsync_v2"),
            memcpy_dtoh_async: resolve!("cuMemcpyDtoHAsync_v2"),
            memset_d8_async: resolve!("cuMemsetD8Async"),
            stream_create: resolve!("cuStreamCreate"),
            stream_destroy: resolve!("cuStreamDestroy_v2"),
            stream_synchronize: resolve!("cuStreamSynchronize"),
            stream_begin_capture: resolve!("cuStreamBeginCapture_v2"),
            stream_end_capture: resolve!("cuStreamEndCapture"),
            graph_instantiate: resolve!("cuGraphInstantiateWithFlags"),
            graph_launch: resolve!("cuGraphLaunch"),
            graph_destroy: resolve!("cuGraphDestroy"),
            graph_exec_destroy: resolve!("cuGraphExecDestroy"),
            event_create: resolve!("cuEventCreate"),
            event_record: resolve!("cuEventRecord"),
            event_synchronize: resolve!("cuEventSynchronize"),
            event_elapsed_time: resolve!("cuEventElapsedTime"),
            event_destroy: resolve!("cuEventDestroy_v2"),
            module_load_data: resolve!("cuModuleLoadData"),
            module_unload: resolve!("cuModuleUnload"),
            module_get_function: resolve!("cuModuleGetFunction"),
            func_set_attribute: resolve!("cuFuncSetAttribute"),
            launch_kernel_ex: resolve!("cuLaunchKernelEx"),
            link_create: resolve!("cuLinkCreate_v2"),
            link_add_data: resolve!("cuLinkAddData_v2"),
            link_complete: resolve!("cuLinkComplete"),
            link_destroy: resolve!("cuLinkDestroy"),
            _library: library,
        })
    }
}
