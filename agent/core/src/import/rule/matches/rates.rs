//! Matches that depend on earlier packets.

use super::super::names;
use super::super::values::{WordError, number};
use super::super::{Condition, RuleContext, Test};
use super::headers::is_count;
use super::{Given, Used, condition, plain};

type Meaning = Result<Vec<Condition>, WordError>;

/// A rate that holds or fails while nothing is exceeded, under the words of these options. `!` is
/// a part of the rate: iptables prints `! --connlimit-above` as `--connlimit-upto`.
fn rate(used: &Used<'_>, given: &Given<'_>, nominal: bool, keys: &[&str]) -> Condition {
    let words = used.words(|key| keys.contains(&key));
    let words = words.trim_start().to_owned();
    plain(Test::Rate(nominal != given.negated, words))
}

fn bad_rate(text: &str) -> WordError {
    (format!("`{text}` is not a rate"), "write it like 10/minute")
}

/// Checks `10/minute` (`parse_rate()` in `extensions/libxt_limit.c`).
fn check_rate(text: &str) -> Result<(), WordError> {
    const UNITS: &[(&str, u64)] = &[
        ("second", 1),
        ("minute", 60),
        ("hour", 3600),
        ("day", 86400),
    ];
    let (count, unit) = text.split_once('/').unwrap_or((text, "second"));
    let count = count.parse::<u64>().ok().filter(|count| *count > 0);
    let seconds = names::first(UNITS, unit);
    let fits = |(count, seconds): (u64, u64)| count / seconds <= 10_000;
    match count.zip(seconds).is_some_and(fits) {
        true => Ok(()),
        false => Err(bad_rate(text)),
    }
}

fn check_count(given: &Given<'_>) -> Result<(), WordError> {
    match is_count(given.value()) {
        true => Ok(()),
        false => Err((
            format!("`{}` is not a number", given.value()),
            "write a whole number",
        )),
    }
}

/// `limit`. The default is three per hour with a burst of five.
pub(super) fn limit(used: &Used<'_>, _: &RuleContext<'_>) -> Meaning {
    for given in &used.given {
        match given.key {
            "limit" => check_rate(given.value())?,
            _ => check_count(given)?,
        }
    }
    let words = used.words(|_| true).trim_start().to_owned();
    let words = if words.is_empty() { used.text() } else { words };
    Ok(vec![plain(Test::Rate(true, words))])
}

/// `hashlimit`
pub(super) fn hashlimit(used: &Used<'_>, _: &RuleContext<'_>) -> Meaning {
    const RATES: [&str; 2] = ["hashlimit-upto", "hashlimit-above"];
    let mut rates = used.given.iter().filter(|given| RATES.contains(&given.key));
    let (Some(given), None) = (rates.next(), rates.next()) else {
        return Err(used.lacks("--hashlimit-upto or --hashlimit-above"));
    };
    if used.option("hashlimit-name").is_none() {
        return Err(used.lacks("--hashlimit-name"));
    }
    // Rates in bytes have other units.
    if !given.value().contains(['b', 'B']) {
        check_rate(given.value())?;
    }
    Ok(vec![rate(used, given, given.key == RATES[0], &RATES)])
}

/// `connlimit`, which counts the packet's own connection too.
pub(super) fn connlimit(used: &Used<'_>, _: &RuleContext<'_>) -> Meaning {
    const RATES: [&str; 2] = ["connlimit-upto", "connlimit-above"];
    let mut rates = used.given.iter().filter(|given| RATES.contains(&given.key));
    let (Some(given), None) = (rates.next(), rates.next()) else {
        return Err(used.lacks("--connlimit-upto or --connlimit-above"));
    };
    check_count(given)?;
    match number(given.value(), u64::MAX) {
        Some(0) => Ok(vec![used.unknown()]),
        _ => Ok(vec![rate(used, given, given.key == RATES[0], &RATES)]),
    }
}

/// `recent`. Nominally, no address is in a list.
pub(super) fn recent(used: &Used<'_>, _: &RuleContext<'_>) -> Meaning {
    const ACTIONS: [&str; 4] = ["set", "rcheck", "update", "remove"];
    let mut actions = used
        .given
        .iter()
        .filter(|given| ACTIONS.contains(&given.key));
    let (Some(given), None) = (actions.next(), actions.next()) else {
        return Err(used.lacks("one of --set, --rcheck, --update and --remove"));
    };
    let limits = ["seconds", "hitcount"].map(|key| used.option(key));
    for each in limits.iter().flatten() {
        check_count(each)?;
        if !matches!(given.key, "rcheck" | "update") {
            return Err((
                format!("`--{}` needs --rcheck or --update", each.key),
                "iptables-restore rejects it",
            ));
        }
    }
    let [seconds, _] = limits;
    if used.option("reap").is_some() && seconds.is_none() {
        return Err(used.lacks("--seconds for --reap"));
    }
    match given.key {
        "set" => Ok(vec![condition(given, Test::Always(true))]),
        _ => Ok(vec![rate(
            used,
            given,
            false,
            &["rcheck", "update", "remove", "seconds", "hitcount"],
        )]),
    }
}

/// `quota`
pub(super) fn quota(used: &Used<'_>, _: &RuleContext<'_>) -> Meaning {
    let given = used.given.first().ok_or_else(|| used.lacks("--quota"))?;
    check_count(given)?;
    match number(given.value(), u64::MAX) {
        Some(0) => Ok(vec![used.unknown()]),
        _ => Ok(vec![rate(used, given, true, &["quota"])]),
    }
}
