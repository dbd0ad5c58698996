//! The memory that a process keeps.

/// Free memory at the end of the heap from which on it is given back, in bytes.
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 128 << 10;
/// Size from which on blocks are mapped, and given back as soon as they are freed, in bytes.
#[cfg(target_env = "gnu")]
const MAPPED: libc::c_int = 1 << 20;
/// Number of heaps for threads. Each keeps what is freed in it, so that a second one holds much
/// that the first could use again; by default there are eight for each processor.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 1;

/// Makes the allocator give back what is freed, so that a process is about as large as what it
/// needs. By default the GNU C library raises both sizes, to as much as 64 MiB, with each large
/// block that is freed (mallopt(3)). Others, such as musl, have no such limits.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    for (limit, value) in [
        (libc::M_TRIM_THRESHOLD, KEPT),
        (libc::M_MMAP_THRESHOLD, MAPPED),
        (libc::M_ARENA_MAX, HEAPS),
    ] {
        // SAFETY: mallopt(3) takes two numbers, and has no conditions.
        let is_set = unsafe { libc::mallopt(limit, value) } == 1;
        debug_assert!(is_set, "mallopt(3) knows limit {limit}");
    }
}
