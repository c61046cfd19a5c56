//! NVRTC, looked for when it is needed: builds for the CPU do not link to it.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::transmute;

type Program = *mut c_void;

type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Text = unsafe extern "C" fn(Program, *mut c_char) -> c_int;

/// The functions that a compilation takes.
pub struct Nvrtc {
    create: Create,
    compile: Compile,
    destroy: Destroy,
    log_size: Size,
    log: Text,
    ptx_size: Size,
    ptx: Text,
}

impl Nvrtc {
    /// None where the library is not found.
    pub fn open() -> Option<Self> {
        let library = [c"libnvrtc.so.13", c"libnvrtc.so.12"]
            .into_iter()
            // SAFETY: the name ends in a zero byte; the library stays loaded.
            .map(|name| unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) })
            .find(|library| !library.is_null())?;
        let find = |name: &CStr| {
            // SAFETY: as above.
            let at = unsafe { libc::dlsym(library, name.as_ptr()) };
            (!at.is_null()).then_some(at)
        };
        // SAFETY: nvrtc.h declares the functions so.
        unsafe {
            Some(Self {
                create: transmute::<*mut c_void, Create>(find(c"nvrtcCreateProgram")?),
                compile: transmute::<*mut c_void, Compile>(find(c"nvrtcCompileProgram")?),
                destroy: transmute::<*mut c_void, Destroy>(find(c"nvrtcDestroyProgram")?),
                log_size: transmute::<*mut c_void, Size>(find(c"nvrtcGetProgramLogSize")?),
                log: transmute::<*mut c_void, Text>(find(c"nvrtcGetProgramLog")?),
                ptx_size: transmute::<*mut c_void, Size>(find(c"nvrtcGetPTXSize")?),
                ptx: transmute::<*mut c_void, Text>(find(c"nvrtcGetPTX")?),
            })
        }
    }

    /// The PTX, or what the compiler complains of: its warnings too.
    pub fn compile(&self, source: &str, options: &[String]) -> Result<String, String> {
        let source = CString::new(source).unwrap();
        let options: Vec<CString> = options
            .iter()
            .map(|option| CString::new(option.as_str()).unwrap())
            .collect();
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let none: *const *const c_char = std::ptr::null();
        let mut program = std::ptr::null_mut();
        // SAFETY: every pointer is to what lives until the call ends, and ends in a zero byte; there are as many
        // options as the count says.
        unsafe {
            let name = c"kernels.cu".as_ptr();
            let created = (self.create)(&raw mut program, source.as_ptr(), name, 0, none, none);
            assert_eq!(created, 0, "nvrtcCreateProgram");
            let failed = (self.compile)(program, pointers.len() as c_int, pointers.as_ptr()) != 0;
            let log = text(program, self.log_size, self.log);
            let result = if failed || !log.trim().is_empty() {
                Err(log)
            } else {
                Ok(text(program, self.ptx_size, self.ptx))
            };
            (self.destroy)(&raw mut program);
            result
        }
    }
}

/// # Safety
/// The functions have to be a size's, and that of what has this size, of a program that has been compiled.
unsafe fn text(program: Program, size: Size, get: Text) -> String {
    let mut bytes = 0;
    // SAFETY: the caller's, and there is room for as many bytes as are written.
    unsafe {
        assert_eq!(size(program, &raw mut bytes), 0);
        let mut buffer = vec![0u8; bytes];
        assert_eq!(get(program, buffer.as_mut_ptr().cast()), 0);
        buffer.pop();
        String::from_utf8_lossy(&buffer).into_owned()
    }
}
