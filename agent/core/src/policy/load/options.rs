//! `[options]`.

use super::fields::{self, Value};
use super::{Loader, place_of};
use crate::diagnostic::{Diagnostic, FileId};
use crate::policy::{Denied, HeldBy};

impl Loader<'_> {
    pub(super) fn options(&mut self, file: FileId, value: &Value<'_>) {
        let Some(mut fields) = self.table(file, value, "options") else {
            return;
        };
        if let Some((_, value)) = fields.take("hook_priority") {
            match fields::integer(value.get_ref()).map(i32::try_from) {
                // conntrack works at -200 (NF_IP_PRI_CONNTRACK), DNAT at -100: earlier hooks of
                // ours would see neither state nor what was dialled. SNAT of input is at 100.
                Some(Ok(priority)) if (-99..100).contains(&priority) => {
                    self.draft.policy.options.hook_priority = priority;
                    if priority == 0 {
                        self.diagnostics.push(
                            Diagnostic::warning(place_of(file, value), "priority 0 is everybody's: the order against other tables is not defined")
                                .help("take a number of your own, like -10"),
                        );
                    }
                }
                _ => self.error(
                    Diagnostic::error(place_of(file, value), "`hook_priority` is out of range")
                        .help("a number from -99 (after DNAT) to 99; the default is -10"),
                ),
            }
        }
        if let Some((_, value)) = fields.take("backend") {
            let choices = [
                ("auto", HeldBy::Auto),
                ("nft", HeldBy::Nft),
                ("iptables", HeldBy::Iptables),
            ];
            if let Some(backend) = self.one_of(file, value, "backend", &choices) {
                self.draft.policy.options.backend = backend;
            }
        }
        if let Some((_, value)) = fields.take("denied") {
            let choices = [("drop", Denied::Drop), ("reject", Denied::Reject)];
            if let Some(denied) = self.one_of(file, value, "denied", &choices) {
                self.draft.policy.options.denied = denied;
            }
        }
        if let Some((_, value)) = fields.take("invalid")
            && let Some(drop) =
                self.one_of(file, value, "invalid", &[("drop", true), ("accept", false)])
        {
            self.draft.policy.options.drop_invalid = drop;
        }
        if let Some((_, value)) = fields.take("mode") {
            let known = self.one_of(file, value, "mode", &[("enforce", true), ("audit", false)]);
            if known == Some(false) {
                self.error(
                    Diagnostic::error(
                        place_of(file, value),
                        "mode \"audit\" is not in this version of peerwall yet",
                    )
                    .help("`peerwall plan` shows what would change without changing it"),
                );
            }
        }
        if let Some((_, value)) = fields.take("revoke")
            && let Some(cut) = self.one_of(file, value, "revoke", &[("cut", true), ("keep", false)])
        {
            self.draft.policy.options.cut_revoked = cut;
        }
        let known = [
            "backend",
            "hook_priority",
            "denied",
            "mode",
            "invalid",
            "revoke",
        ];
        self.diagnostics.extend(fields.unknown(&known, "[options]"));
    }
}
