//! Transient errors of system calls: the same call may succeed a moment later.
//!
//! Only this module decides which errors are transient. A loop that must not end pauses and
//! continues; a single call is repeated a few times.

use std::io;
use std::thread;
use std::time::Duration;

/// Pause before the next attempt.
pub const PAUSE: Duration = Duration::from_millis(50);
/// Maximum number of attempts of a single call.
pub const TRIES: u32 = 10;

/// Whether an error is transient and independent of the request: a signal, or a shortage of memory,
/// buffers or file descriptors.
pub fn is_passing(errno: i32) -> bool {
    matches!(
        errno,
        libc::EINTR
            | libc::EAGAIN
            | libc::ENOMEM
            | libc::ENOBUFS
            | libc::EMFILE
            | libc::ENFILE
            | libc::ECONNABORTED
    )
}

/// Like [`is_passing`], for errors of the standard library.
pub fn is_passing_io(err: &io::Error) -> bool {
    err.raw_os_error().is_some_and(is_passing)
}

/// For loops that must not end: whether to continue after this error. Pauses first, except after a
/// signal, so that a call that keeps failing does not use a whole processor.
pub fn survive(errno: i32) -> bool {
    if is_passing(errno) && errno != libc::EINTR {
        thread::sleep(PAUSE);
    }
    is_passing(errno)
}

/// Repeats a call while its error is transient, with a pause between attempts, at most ten times.
/// Interruptions by a signal are not counted.
///
/// # Errors
/// Any other error, or the last one.
pub fn repeat<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let call = || loop {
        match call() {
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    };
    retry(call, is_passing_io)
}

/// Repeats a call while `passes` returns true for its error, with a pause between attempts, at most
/// ten times.
///
/// # Errors
/// Any other error, or the last one.
pub fn retry<T, E>(
    mut call: impl FnMut() -> Result<T, E>,
    passes: impl Fn(&E) -> bool,
) -> Result<T, E> {
    for _ in 1..TRIES {
        match call() {
            Err(err) if passes(&err) => thread::sleep(PAUSE),
            result => return result,
        }
    }
    call()
}

/// Repeats a call after any error, with a pause between attempts, at most ten times. For calls
/// whose failure would lose information.
///
/// # Errors
/// The last one.
pub fn insist<T>(call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    retry(call, |_| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_repeated_and_nothing_else() {
        for (errno, fails, calls, succeeds) in [
            (libc::EINTR, 20, 21, true),
            (libc::ENOMEM, 2, 3, true),
            (libc::ENOBUFS, 100, TRIES, false),
            (libc::EPERM, 1, 1, false),
        ] {
            let mut made = 0;
            let result = repeat(|| {
                made += 1;
                match made > fails {
                    true => Ok(()),
                    false => Err(io::Error::from_raw_os_error(errno)),
                }
            });
            assert_eq!((made, result.is_ok()), (calls, succeeds), "errno {errno}");
        }
        assert!(survive(libc::ENOMEM) && survive(libc::EAGAIN) && !survive(libc::EBADF));
    }
}
