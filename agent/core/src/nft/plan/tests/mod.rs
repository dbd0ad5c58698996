//! The comparison of rules, and the reasons for a rebuild.

mod rebuild;

use super::*;

fn rule(number: usize) -> Rule {
    Rule {
        comment: Some(number.to_string()),
        ..Rule::default()
    }
}

fn seen(numbers: impl Iterator<Item = usize>) -> Vec<ObservedRule> {
    let seen = |number| ObservedRule {
        handle: number as u64,
        rule: Ok(rule(number)),
    };
    numbers.map(seen).collect()
}

#[test]
fn thousands_of_changed_rules_are_compared_without_a_table_of_all_pairs() {
    const MANY: usize = 20_000;
    let old = seen(0..MANY);
    // Every third is another, and the first two thirds change places with the last.
    let order = (MANY / 3 * 2..MANY).chain(0..MANY / 3 * 2);
    let new: Vec<Rule> = order
        .map(|number| {
            rule(if number % 3 == 0 {
                MANY + number
            } else {
                number
            })
        })
        .collect();
    let pairs = common(&new, &old);
    assert!(
        pairs
            .windows(2)
            .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1)
    );
    assert!(
        pairs
            .iter()
            .all(|(w, s)| old[*s].rule.as_ref() == Ok(&new[*w]))
    );
    assert!(pairs.len() >= MANY / 3 * 2 / 3 * 2 - 2, "{}", pairs.len());
}

#[test]
fn both_ways_find_the_same_of_rules_that_are_there_once() {
    let old = seen([3, 1, 4, 5, 9, 2, 6].into_iter());
    let new: Vec<Rule> = [1, 3, 4, 9, 7, 2, 5, 6].map(rule).into();
    assert_eq!(longest(&new, &old).len(), 5);
    assert_eq!(unique(&new, &old).len(), 5);
}
