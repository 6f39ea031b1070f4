//! Gives memory back to the system after a flood.
//!
//! When entries run out the tables of a store shrink, but the C library keeps what lies between
//! things that stay. Allocators that do not were measured and cost more than they give back:
//! see `docs/benchmarks.md`.

/// Gives back every page that nothing lies in. It takes some milliseconds if there are many, and
/// who allocates meanwhile may wait for that: to be called when much has gone, not all the time.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[allow(unsafe_code, reason = "the C library's allocator has no safe name for this")]
    // SAFETY: `malloc_trim` may be called at any time from any thread (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}
