//! Whatever a rules file says, it is imported or refused without panic, and no allow is wider than
//! it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peerwall_core::net::addr::Family;
use peerwall_core::import::{Change, Facts, File, import};
use peerwall_core::policy::reason::Reason;

fuzz_target!(|text: &str| {
    let file = File {
        name: "rules".into(),
        text: text.into(),
        family: Some(Family::V4),
    };
    let Ok(import) = import(&[file], &Facts::default()) else {
        return;
    };
    for difference in import.differences {
        let widens = difference.change == Change::New
            && matches!(difference.reason, Reason::Allow(_) | Reason::Ping);
        assert!(
            !widens || text.contains("UNTRACKED"),
            "{}",
            difference.sentence
        );
    }
});
