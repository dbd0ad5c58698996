//! Errors of the operating system that pass: the same call may succeed a moment later.
//!
//! Which ones there are is decided here alone. A loop that has to stay pauses and goes on; a single
//! call is repeated a few times.

use std::io;
use std::thread;
use std::time::Duration;

/// How long to wait before the next attempt.
pub const PAUSE: Duration = Duration::from_millis(50);
/// How often a single call is repeated.
pub const TRIES: u32 = 10;

/// Whether an error says nothing about the request, but only about this moment: a signal came, or
/// memory, buffers or file descriptors were short.
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

/// The same of an error of the standard library.
pub fn is_passing_io(err: &io::Error) -> bool {
    err.raw_os_error().is_some_and(is_passing)
}

/// For loops that have to stay: whether to go on after this error. Pauses first, unless it was only
/// a signal, so that a loop around a call that keeps failing does not use a whole processor.
pub fn survive(errno: i32) -> bool {
    if is_passing(errno) && errno != libc::EINTR {
        thread::sleep(PAUSE);
    }
    is_passing(errno)
}

/// Repeats a call while its error passes, with a pause between attempts, at most ten times. A
/// signal is not counted.
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

/// Repeats a call while `passes` says so of its error, with a pause between attempts, at most ten
/// times.
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

/// Repeats a call whatever its error is, with a pause between attempts, at most ten times: for what
/// is lost if it is not known now.
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
