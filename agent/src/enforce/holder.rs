//! What holds the rules of the agent: nf_tables, or iptables where there is none.

use std::os::fd::{AsFd as _, BorrowedFd};

use peerwall_core::backend::{Backend as _, BackendError, Plan as _};
use peerwall_core::nft::observed::Observed;
use peerwall_core::ruleset::Ruleset;

use super::converge;
use super::iptables::Iptables;
use super::nft::{Claim, Kernel, lacks};
use super::switch;
use crate::cli::BackendName;
use crate::kernel::events::{Change, Events};
use crate::store::{State, since};

/// What holds the rules.
pub enum Holder {
    /// Our table.
    Nft {
        /// By which rules are changed, and owned.
        kernel: Box<Kernel>,
        /// By which changes are heard of.
        events: Box<Events>,
        /// Whether others changed something the last time while nobody listened: they may do so all the time.
        is_noisy: bool,
    },
    /// Our chains.
    Iptables {
        /// By which rules are changed.
        iptables: Box<Iptables>,
        /// What they were made from last, as far as it is known.
        last: Option<Ruleset>,
    },
}

/// What it came to.
pub struct Done {
    /// What was changed, in a line; nothing if nothing had to be.
    pub change: Option<String>,
    /// Whether others may have changed something while nobody listened.
    pub missed: bool,
    /// What was there before.
    pub before: Option<Ruleset>,
    /// Losses of others that were heard of meanwhile; nothing else is in it.
    pub heard: Vec<Change>,
}

impl Holder {
    /// Chooses by trying: nf_tables, unless iptables is asked for or there is no nf_tables.
    ///
    /// # Errors
    /// A sentence, if neither can be had.
    pub fn choose(asked: BackendName, owner: bool) -> Result<Self, String> {
        if asked == BackendName::Iptables {
            return Self::iptables();
        }
        match Self::nft(owner) {
            Ok(holder) => Ok(holder),
            Err(err) if asked == BackendName::Auto && lacks(&err) => {
                log::warn!("{err}; going on with iptables");
                Self::iptables()
            }
            Err(err) => Err(err.to_string()),
        }
    }

    fn nft(owner: bool) -> Result<Self, BackendError> {
        let mut kernel = match owner {
            true => Kernel::open()?,
            false => Kernel::open_without_owner()?,
        };
        kernel.generation()?;
        kernel.remember();
        if owner {
            kernel.claim_table(Claim::Own);
        }
        let events = Events::open().map_err(|err| BackendError::Transport(err.to_string()))?;
        Ok(Self::Nft {
            kernel: Box::new(kernel),
            events: Box::new(events),
            is_noisy: false,
        })
    }

    fn iptables() -> Result<Self, String> {
        let iptables = Iptables::choose().map_err(|err| err.to_string())?;
        Ok(Self::Iptables {
            iptables: Box::new(iptables),
            last: State::open().in_force_by_iptables(),
        })
    }

    /// Its name, and why it was taken.
    pub fn describe(&self) -> String {
        match self {
            Self::Nft { kernel, .. } => match kernel.can_hold() {
                Some(true) => {
                    "nft; the table is owned by the agent, and nobody else can change it".into()
                }
                Some(false) => {
                    "nft; the table has no owner, so others can change it, and are repaired".into()
                }
                None => "nft".into(),
            },
            Self::Iptables { iptables, .. } => iptables.describe(),
        }
    }

    /// Whether rules of ours are loaded, by either backend; `None` if that cannot be read.
    pub fn is_loaded(&mut self) -> Option<bool> {
        match self {
            Self::Nft { kernel, .. } => {
                let is_loaded = kernel.has_table().ok()?;
                Some(is_loaded || since::by_iptables())
            }
            Self::Iptables { iptables, .. } => {
                let seen = iptables.observe().ok()?;
                Some(switch::is_loaded(&seen))
            }
        }
    }

    /// Whether changes have to be looked for.
    pub fn is_deaf(&self) -> bool {
        matches!(self, Self::Iptables { .. })
    }

    /// What to poll.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Nft { events, .. } => Some(events.as_fd()),
            Self::Iptables { .. } => None,
        }
    }

    /// What happened.
    pub fn drain(&mut self) -> Vec<Change> {
        match self {
            Self::Nft { events, .. } => events.drain(),
            Self::Iptables { .. } => Vec::new(),
        }
    }

    /// What is there; nothing by iptables, whose rules are not ours to read.
    pub fn observe(&mut self) -> Option<Observed> {
        match self {
            Self::Nft { kernel, .. } => {
                let seen = kernel.observe().ok();
                kernel.done();
                seen
            }
            Self::Iptables { .. } => None,
        }
    }

    /// The kernel's generation of rules.
    pub fn generation(&mut self) -> Option<u32> {
        match self {
            Self::Nft { kernel, .. } => kernel.generation().ok(),
            Self::Iptables { .. } => Some(0),
        }
    }

    /// Makes the rules be what is wanted; `None` for nothing of ours.
    ///
    /// # Errors
    /// What the kernel, or iptables, said.
    pub fn converge(&mut self, wanted: Option<&Ruleset>) -> Result<Done, BackendError> {
        match self {
            Self::Nft {
                kernel,
                events,
                is_noisy,
            } => nft(kernel, events, wanted, is_noisy),
            Self::Iptables { iptables, last } => {
                let mut done = by_iptables(iptables, wanted)?;
                if last.as_ref() != wanted {
                    done.before = std::mem::replace(last, wanted.cloned());
                }
                Ok(done)
            }
        }
    }
}

fn nft(
    kernel: &mut Kernel,
    events: &mut Events,
    wanted: Option<&Ruleset>,
    is_noisy: &mut bool,
) -> Result<Done, BackendError> {
    // What was heard of our rules before is answered by what is done now.
    let mut heard = events.drain();
    let mut change = || converge::converge(kernel, wanted);
    // Listening to one's own changes takes long. But where others change theirs all the time, something would be
    // missed each time, and looked for again without end.
    let (converged, during) = match *is_noisy {
        false => (events.deaf(change)?, events.drain()),
        true => (change()?, events.drain()),
    };
    let is_touched = during.iter().any(|each| !matches!(each, Change::Gone(..)));
    heard.extend(during);
    heard.retain(|change| matches!(change, Change::Gone(..)));
    let sent = u32::from(!converged.plan.is_empty());
    let expected = converged.before.generation.wrapping_add(sent);
    // What is in force is so, even if its generation cannot be read.
    let is_other = kernel.generation().ok() != Some(expected);
    let was_noisy = std::mem::replace(is_noisy, is_other);
    Ok(Done {
        change: (sent == 1).then(|| converged.plan.summary()),
        // Nobody else can change what this process owns.
        missed: !kernel.owns_table() && if was_noisy { is_touched } else { is_other },
        heard,
        before: converged.before.table.and_then(|table| table.ruleset()),
    })
}

fn by_iptables(iptables: &mut Iptables, wanted: Option<&Ruleset>) -> Result<Done, BackendError> {
    let converged = converge::converge(iptables, wanted)?;
    Ok(Done {
        change: (!converged.plan.is_empty()).then(|| converged.plan.summary()),
        missed: false,
        before: None,
        heard: Vec::new(),
    })
}
