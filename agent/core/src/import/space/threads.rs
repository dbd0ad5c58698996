//! Work on slices in threads, with results in order: they do not depend on the number of threads.

use std::sync::mpsc::{self, Receiver};
use std::thread;

/// Maximum number of threads.
const THREADS_MAX: usize = 8;

/// Calls `work` for each item, in several threads, and `take` with each result, in the order of the
/// items. No thread is more than a few items ahead.
pub(super) fn in_order<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> R + Sync,
    mut take: impl FnMut(R),
) {
    let count = thread::available_parallelism().map_or(1, usize::from);
    let count = count.min(THREADS_MAX).min(items.len());
    if count < 2 {
        return items.iter().for_each(|item| take(work(item)));
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "the result does not depend on threads"
    )]
    thread::scope(|scope| {
        let work = &work;
        let start = |first: usize| -> Option<Receiver<R>> {
            let (sender, results) = mpsc::sync_channel(1);
            let each = move || {
                for item in items.iter().skip(first).step_by(count) {
                    if sender.send(work(item)).is_err() {
                        return;
                    }
                }
            };
            let started = thread::Builder::new().spawn_scoped(scope, each);
            started.ok().map(|_| results)
        };
        let threads: Vec<Option<Receiver<R>>> = (0..count).map(start).collect();
        for (item, thread) in items.iter().zip(threads.iter().cycle()) {
            let result = thread.as_ref().and_then(|results| results.recv().ok());
            // A host can refuse another thread.
            take(result.unwrap_or_else(|| work(item)));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_order_of_items() {
        for count in [0, 1, 2, 7, 100] {
            let items: Vec<usize> = (0..count).collect();
            let mut found = Vec::new();
            in_order(&items, |item| item * 3, |result| found.push(result));
            let wanted: Vec<usize> = items.iter().map(|item| item * 3).collect();
            assert_eq!(found, wanted, "{count} items");
        }
    }
}
