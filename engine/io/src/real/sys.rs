//! The system calls that the ring has no operation for, each behind a safe function.
//!
//! None of them waits for a device or a peer, except [`statfs`], which its callers use at start and for
//! administration.

use std::ffi::{CStr, CString, c_int};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The result of a call that reports failure as -1 and errno.
fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Takes over a descriptor that the system has just handed out.
///
/// # Safety
/// `fd` must be open and owned by nobody else.
pub(crate) unsafe fn take_descriptor(fd: RawFd) -> OwnedFd {
    // SAFETY: the caller vouches for the descriptor.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A path as the system wants it.
pub(crate) fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the path contains a zero byte"))
}

/// An event counter that polls as readable once something was written.
pub(crate) fn event_descriptor() -> io::Result<File> {
    // SAFETY: takes no pointer.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    let fd = check(fd)?;
    // SAFETY: `eventfd` has just returned it.
    let fd = unsafe { take_descriptor(fd) };
    Ok(File::from(fd))
}

/// The lock of the whole file that belongs to the open file description (`F_OFD_SETLK`); whether it was got. It shuts out
/// the record locks of other programs too, a JVM's among them, which flock(2) passes by. A file that is open for reading
/// only gets the shared one.
pub(crate) fn try_lock(file: impl AsFd) -> io::Result<bool> {
    match try_lock_as(&file, libc::F_WRLCK) {
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => try_lock_as(&file, libc::F_RDLCK),
        done => done,
    }
}

fn try_lock_as(file: &impl AsFd, kind: libc::c_int) -> io::Result<bool> {
    let fd = file.as_fd().as_raw_fd();
    let whole_file = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    loop {
        // SAFETY: the descriptor is borrowed, so it is open; the kernel reads `whole_file` during the call only.
        let result = unsafe { libc::fcntl(fd, libc::F_OFD_SETLK, &raw const whole_file) };
        match check(result) {
            Ok(_) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
    }
}

/// `ftruncate`, for kernels before 6.9.
pub(crate) fn truncate(file: impl AsFd, len_bytes: i64) -> io::Result<()> {
    let fd = file.as_fd().as_raw_fd();
    loop {
        // SAFETY: takes no pointer; the descriptor is borrowed, so it is open.
        let result = unsafe { libc::ftruncate(fd, len_bytes) };
        match check(result) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done.map(drop),
        }
    }
}

/// Sets `O_DIRECT`; whether the file system takes it.
pub(crate) fn set_direct(file: impl AsFd) -> io::Result<bool> {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: takes no pointer; the descriptor is borrowed, so it is open.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    let flags = check(flags)?;
    // SAFETY: as above.
    let result = unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_DIRECT) };
    match check(result) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Asks for a pipe that holds `bytes`; what it holds then, which may be less.
pub(crate) fn set_pipe_capacity(pipe: impl AsFd, bytes: c_int) -> io::Result<usize> {
    let fd = pipe.as_fd().as_raw_fd();
    // SAFETY: takes no pointer; the descriptor is borrowed, so it is open.
    let result = unsafe { libc::fcntl(fd, libc::F_SETPIPE_SZ, bytes) };
    if let Ok(capacity) = check(result) {
        return Ok(usize::try_from(capacity).unwrap_or_default());
    }
    // Over the limit of unprivileged processes: it keeps what it has.
    // SAFETY: as above.
    let result = unsafe { libc::fcntl(fd, libc::F_GETPIPE_SZ) };
    Ok(usize::try_from(check(result)?).unwrap_or_default())
}

/// `shutdown` of both directions.
pub(crate) fn shut_down(socket: impl AsFd) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: takes no pointer; the descriptor is borrowed, so it is open.
    let result = unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
    check(result).map(drop)
}

/// statfs(2).
pub(crate) fn statfs(path: &CStr) -> io::Result<libc::statfs> {
    let mut space = MaybeUninit::uninit();
    // SAFETY: both pointers are valid for the call, the path ends in a zero byte.
    let result = unsafe { libc::statfs(path.as_ptr(), space.as_mut_ptr()) };
    check(result)?;
    // SAFETY: the call has succeeded, so it has filled the structure.
    Ok(unsafe { space.assume_init() })
}

/// Random bytes of the system, for the seed of a shard.
pub(crate) fn random_seed() -> io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    // SAFETY: the pointer is valid for the length; up to 256 bytes come whole, without an interruption.
    let result = unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) };
    if usize::try_from(result) == Ok(seed.len()) { Ok(seed) } else { Err(io::Error::last_os_error()) }
}

/// The monotonic clock in nanoseconds; may be called in a signal handler.
pub(crate) fn monotonic_nanos() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is valid for the call; clock_gettime(2) is allowed in a handler. It cannot fail: every kernel
    // has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// Ends the process without destructors or exit handlers.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: takes no pointer and does not return.
    unsafe { libc::_exit(code) }
}
