//! The first line of `status`: the state of this host.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

/// Inputs of the headline.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Facts<'f> {
    /// Whether peerwall's rules are loaded.
    pub(super) is_loaded: bool,
    /// Whether they are the closed ruleset of boot.
    pub(super) is_closed: bool,
    /// Whether they let pass what the policy denies.
    pub(super) is_audit: bool,
    /// Whether they match the policy; `None` if the policy has errors.
    pub(super) in_sync: Option<bool>,
    /// Path of the policy.
    pub(super) policy: &'f str,
    /// Errors of the policy, as one sentence.
    pub(super) policy_error: Option<&'f str>,
    /// Whether this policy was rolled back.
    pub(super) is_rolled_back: bool,
    /// Path of the policy that was loaded last, if the rules have not changed since.
    pub(super) loaded_from: Option<&'f str>,
    /// Time of the load, with its age.
    pub(super) loaded_since: Option<&'f str>,
    /// Whether the rules changed since they were loaded.
    pub(super) is_changed: bool,
    /// The trial that waits for confirmation.
    pub(super) trial: Option<&'f Trial>,
    /// The block.
    pub(super) block: Option<&'f Blocked>,
    /// Why the agent does not apply its policy.
    pub(super) agent_refuses: Option<&'f str>,
    /// Why the agent cannot load rules.
    pub(super) agent_fails: Option<&'f str>,
    /// Chains of other firewalls that also drop packets.
    pub(super) others: &'f str,
}

/// A policy that is rolled back unless it is confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct Trial {
    /// Path of the policy on trial.
    pub(super) policy: String,
    /// How long it has left, in seconds.
    pub(super) seconds_left: u64,
    /// Path of the policy that comes back; `None` if no rules were loaded.
    pub(super) back_to: Option<String>,
}

/// A block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct Blocked {
    /// Time of the block, as RFC 3339.
    pub(super) since: String,
    /// How long it has left unless it is confirmed, in seconds.
    pub(super) seconds_left: Option<u64>,
    /// Path of the policy that `unblock` goes back to; absent if there was none.
    pub(super) back_to: Option<String>,
    /// Whether its rules are loaded.
    pub(super) loaded: bool,
}

/// Kind of state of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum HostState {
    /// No rules of peerwall are loaded.
    NotLoaded,
    /// `peerwall block` closed the host.
    Blocked,
    /// A policy is loaded that is rolled back unless it is confirmed.
    OnTrial,
    /// The closed ruleset is loaded.
    Closed,
    /// The policy has errors; the last good one is loaded.
    LastGood,
    /// The loaded rules match the policy.
    InSync,
    /// The policy was rolled back; an earlier one is loaded.
    RolledBack,
    /// The agent does not apply the policy; an earlier one is loaded.
    NotApplied,
    /// The loaded rules differ from the policy.
    OutOfDate,
}

impl Facts<'_> {
    /// Returns the most urgent state.
    pub(super) fn state(&self) -> HostState {
        if !self.is_loaded {
            return HostState::NotLoaded;
        }
        if self.block.is_some() {
            return HostState::Blocked;
        }
        if self.trial.is_some() {
            return HostState::OnTrial;
        }
        if self.is_closed && self.in_sync != Some(true) {
            return HostState::Closed;
        }
        match self.in_sync {
            None => HostState::LastGood,
            Some(true) => HostState::InSync,
            Some(false) if self.is_rolled_back => HostState::RolledBack,
            Some(false) if self.agent_refuses.is_some() => HostState::NotApplied,
            Some(false) => HostState::OutOfDate,
        }
    }

    /// Describes the loaded rules.
    fn loaded(&self) -> String {
        match self.loaded_from {
            _ if self.is_changed => "; somebody else changed the loaded rules".to_owned(),
            Some(path) if path != self.policy => format!("; the loaded rules are from {path}"),
            _ => String::new(),
        }
    }
}

impl fmt::Display for Facts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_loaded && self.is_audit {
            f.write_str("AUDIT: nothing is enforced, what the policy denies passes; ")?;
        }
        let policy = self.policy;
        let since = self.loaded_since.map(|since| format!(", loaded {since}"));
        let since = since.unwrap_or_default();
        match self.state() {
            HostState::NotLoaded => match (self.agent_fails, self.policy_error) {
                (Some(why), _) => write!(f, "NOT LOADED: the agent cannot load rules: {why}"),
                (None, Some(why)) => write!(
                    f,
                    "not loaded: this host has no rules of peerwall, and {policy} cannot be \
                     applied: {why}; see `peerwall check`"
                ),
                (None, None) => write!(
                    f,
                    "not loaded: this host has no rules of peerwall; `peerwall apply` loads {policy}"
                ),
            },
            HostState::Blocked => match self.block {
                Some(block) => write!(f, "{block}"),
                None => Ok(()),
            },
            HostState::OnTrial => {
                let Some(trial) = self.trial else {
                    return Ok(());
                };
                write!(
                    f,
                    "on trial: {}, {} s left, then ",
                    trial.policy, trial.seconds_left
                )?;
                match &trial.back_to {
                    Some(path) => write!(f, "back to {path}")?,
                    None => f.write_str("no rules, as before")?,
                }
                f.write_str("; to keep it: `peerwall confirm` from a new connection")
            }
            HostState::Closed => {
                let why = match self.policy_error {
                    Some(why) => format!("{policy} cannot be applied: {why}; see `peerwall check`"),
                    None => format!(
                        "no confirmed ruleset could be loaded; `peerwall apply` loads {policy}"
                    ),
                };
                write!(
                    f,
                    "CLOSED: only ssh and the safe core are allowed, because {why}"
                )
            }
            HostState::LastGood => {
                let why = self.policy_error.unwrap_or("it cannot be read");
                write!(
                    f,
                    "last good policy{since}: {policy} cannot be applied: {why}; see `peerwall check`{}",
                    self.loaded()
                )
            }
            HostState::InSync => write!(f, "in sync with {policy}{}", self.others),
            HostState::RolledBack => write!(
                f,
                "rolled back: an earlier policy is in force{since}, not {policy}, until its text \
                 changes or `peerwall reload`{}",
                self.loaded()
            ),
            HostState::NotApplied => {
                let why = self.agent_refuses.unwrap_or_default();
                let why = why.lines().next().unwrap_or_default();
                write!(f, "not applied: {policy}: {why}")
            }
            HostState::OutOfDate => match self.agent_fails {
                Some(why) => write!(f, "out of date: the agent cannot load {policy}: {why}"),
                None => write!(
                    f,
                    "out of date: loaded rules differ from {policy}; run `peerwall plan`{}",
                    self.loaded()
                ),
            },
        }
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BLOCKED since {}: ", self.since)?;
        f.write_str(match self.loaded {
            true => {
                "only the safe core, ssh of the session that blocked, and kept peers are allowed"
            }
            false => "but other rules are loaded, so run `peerwall boot`",
        })?;
        let back = self.back_to.as_deref().unwrap_or("no rules, as before");
        match self.seconds_left {
            Some(left) => write!(
                f,
                "; {left} s left, then {back}; to keep it: `peerwall confirm` from a new connection"
            ),
            None => write!(f, "; `peerwall unblock` goes back to {back}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "/etc/peerwall/policy.toml";
    const SINCE: &str = "2026-11-25T20:47:30Z (12 min ago)";

    fn loaded() -> Facts<'static> {
        Facts {
            is_loaded: true,
            in_sync: Some(true),
            policy: POLICY,
            loaded_from: Some(POLICY),
            loaded_since: Some(SINCE),
            ..Facts::default()
        }
    }

    #[test]
    fn every_state_has_its_headline() {
        let trial = Trial {
            policy: "/root/new.toml".into(),
            seconds_left: 42,
            back_to: Some(POLICY.into()),
        };
        let first = Trial {
            back_to: None,
            ..trial.clone()
        };
        let block = Blocked {
            since: "2026-11-25T20:47:30Z".into(),
            seconds_left: Some(42),
            back_to: Some(POLICY.into()),
            loaded: true,
        };
        let not_loaded = Blocked {
            seconds_left: None,
            back_to: None,
            loaded: false,
            ..block.clone()
        };
        let differs = Facts {
            in_sync: Some(false),
            ..loaded()
        };
        let wrong = Facts {
            in_sync: None,
            policy_error: Some("3 errors in the policy"),
            ..loaded()
        };
        let nothing = Facts {
            is_loaded: false,
            loaded_from: None,
            loaded_since: None,
            ..differs
        };
        let goldens = [
            (
                loaded(),
                HostState::InSync,
                "in sync with /etc/peerwall/policy.toml",
            ),
            (
                Facts {
                    others: ", but another firewall also drops: ip filter INPUT (ufw)",
                    ..loaded()
                },
                HostState::InSync,
                "in sync with /etc/peerwall/policy.toml, but another firewall also drops: ip \
                 filter INPUT (ufw)",
            ),
            (
                Facts {
                    is_audit: true,
                    ..loaded()
                },
                HostState::InSync,
                "AUDIT: nothing is enforced, what the policy denies passes; in sync with \
                 /etc/peerwall/policy.toml",
            ),
            (
                wrong,
                HostState::LastGood,
                "last good policy, loaded 2026-11-25T20:47:30Z (12 min ago): \
                 /etc/peerwall/policy.toml cannot be applied: 3 errors in the policy; see `peerwall check`",
            ),
            (
                Facts {
                    loaded_from: Some("/root/new.toml"),
                    loaded_since: None,
                    ..wrong
                },
                HostState::LastGood,
                "last good policy: /etc/peerwall/policy.toml cannot be applied: 3 errors in the \
                 policy; see `peerwall check`; the loaded rules are from /root/new.toml",
            ),
            (
                Facts {
                    trial: Some(&trial),
                    block: Some(&block),
                    ..differs
                },
                HostState::Blocked,
                "BLOCKED since 2026-11-25T20:47:30Z: only the safe core, ssh of the session that blocked, \
                 and kept peers are allowed; 42 s left, then /etc/peerwall/policy.toml; to keep it: \
                 `peerwall confirm` from a new connection",
            ),
            (
                Facts {
                    block: Some(&not_loaded),
                    ..differs
                },
                HostState::Blocked,
                "BLOCKED since 2026-11-25T20:47:30Z: but other rules are loaded, so run `peerwall boot`; \
                 `peerwall unblock` goes back to no rules, as before",
            ),
            (
                Facts {
                    trial: Some(&trial),
                    ..differs
                },
                HostState::OnTrial,
                "on trial: /root/new.toml, 42 s left, then back to /etc/peerwall/policy.toml; to \
                 keep it: `peerwall confirm` from a new connection",
            ),
            (
                Facts {
                    trial: Some(&first),
                    ..loaded()
                },
                HostState::OnTrial,
                "on trial: /root/new.toml, 42 s left, then no rules, as before; to keep it: \
                 `peerwall confirm` from a new connection",
            ),
            (
                Facts {
                    is_closed: true,
                    ..wrong
                },
                HostState::Closed,
                "CLOSED: only ssh and the safe core are allowed, because /etc/peerwall/policy.toml \
                 cannot be applied: 3 errors in the policy; see `peerwall check`",
            ),
            (
                Facts {
                    is_closed: true,
                    ..differs
                },
                HostState::Closed,
                "CLOSED: only ssh and the safe core are allowed, because no confirmed ruleset \
                 could be loaded; `peerwall apply` loads /etc/peerwall/policy.toml",
            ),
            (
                Facts {
                    is_closed: true,
                    ..loaded()
                },
                HostState::InSync,
                "in sync with /etc/peerwall/policy.toml",
            ),
            (
                differs,
                HostState::OutOfDate,
                "out of date: loaded rules differ from /etc/peerwall/policy.toml; run `peerwall plan`",
            ),
            (
                Facts {
                    loaded_from: Some("/root/new.toml"),
                    ..differs
                },
                HostState::OutOfDate,
                "out of date: loaded rules differ from /etc/peerwall/policy.toml; run `peerwall \
                 plan`; the loaded rules are from /root/new.toml",
            ),
            (
                Facts {
                    agent_fails: Some("out of memory"),
                    ..differs
                },
                HostState::OutOfDate,
                "out of date: the agent cannot load /etc/peerwall/policy.toml: out of memory",
            ),
            (
                Facts {
                    is_rolled_back: true,
                    ..differs
                },
                HostState::RolledBack,
                "rolled back: an earlier policy is in force, loaded 2026-11-25T20:47:30Z (12 min \
                 ago), not /etc/peerwall/policy.toml, until its text changes or `peerwall reload`",
            ),
            (
                Facts {
                    agent_refuses: Some(
                        "this policy would lock out every current SSH session\nmore",
                    ),
                    ..differs
                },
                HostState::NotApplied,
                "not applied: /etc/peerwall/policy.toml: this policy would lock out every current \
                 SSH session",
            ),
            (
                nothing,
                HostState::NotLoaded,
                "not loaded: this host has no rules of peerwall; `peerwall apply` loads \
                 /etc/peerwall/policy.toml",
            ),
            (
                Facts {
                    in_sync: None,
                    policy_error: Some("1 error in the policy"),
                    ..nothing
                },
                HostState::NotLoaded,
                "not loaded: this host has no rules of peerwall, and /etc/peerwall/policy.toml \
                 cannot be applied: 1 error in the policy; see `peerwall check`",
            ),
            (
                Facts {
                    agent_fails: Some("operation not permitted"),
                    ..nothing
                },
                HostState::NotLoaded,
                "NOT LOADED: the agent cannot load rules: operation not permitted",
            ),
        ];
        for (facts, state, text) in goldens {
            assert_eq!((facts.state(), facts.to_string().as_str()), (state, text));
        }
    }
}
