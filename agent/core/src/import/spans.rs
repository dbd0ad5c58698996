//! Ascending, disjoint spans of numbers.

use super::rule::Interval;

/// Returns the numbers of `from` that are in none of `what`.
pub(super) fn subtract(from: &[Interval], what: &[Interval]) -> Vec<Interval> {
    let mut what = what.to_vec();
    what.sort_unstable();
    let mut left = Vec::new();
    for (mut first, last) in from.iter().copied() {
        let mut is_open = true;
        let start = what.partition_point(|(_, end)| *end < first);
        for (cut, end) in what.iter().skip(start).take_while(|(cut, _)| *cut <= last) {
            if *cut > first {
                left.push((first, cut - 1));
            }
            match *end >= last {
                true => is_open = false,
                false => first = first.max(end + 1),
            }
        }
        if is_open && first <= last {
            left.push((first, last));
        }
    }
    left
}

/// Reports whether one of the spans contains another.
pub(super) fn is_inside(spans: &[Interval], (first, last): Interval) -> bool {
    let at = spans.partition_point(|(_, end)| *end < first);
    spans
        .get(at)
        .is_some_and(|(start, end)| *start <= first && last <= *end)
}
