//! The match `set`.

use super::super::values::WordError;
use super::super::{Condition, RuleContext, Test};
use super::{Used, condition};

/// `set`. Counters of elements and elements with `nomatch` are not in the model.
pub(super) fn set(used: &Used<'_>, rule: &RuleContext<'_>) -> Result<Vec<Condition>, WordError> {
    let given = used
        .option("match-set")
        .ok_or_else(|| used.lacks("--match-set"))?;
    let [name, dimensions] = given.values[..] else {
        return Err(used.lacks("a set and its dimensions"));
    };
    let is_valid = |part: &str| matches!(part, "src" | "dst");
    if !dimensions.split(',').all(is_valid) {
        return Err((
            format!("`{dimensions}` are not dimensions of a set"),
            "write src, dst or src,dst",
        ));
    }
    if used.given.len() > 1 {
        return Ok(vec![used.unknown()]);
    }
    let unknown = |why: &str| vec![super::plain(Test::Unknown(format!("{}{why}", used.text())))];
    let Some(set) = rule.sets.get(name) else {
        return Ok(unknown(""));
    };
    if let Some(of) = set.family().filter(|of| *of != rule.family) {
        return Err((
            format!("the set `{name}` has IPv{} addresses", of.digit()),
            "name a set of the same family as the rule",
        ));
    }
    match set.test(rule.family, dimensions) {
        Ok(test) => Ok(vec![condition(given, test)]),
        Err(why) => Ok(unknown(&format!(" ({why})"))),
    }
}
