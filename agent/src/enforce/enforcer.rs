//! The backend in use on this host.

use std::collections::BTreeMap;

use peerwall_core::backend::{Backend, BackendError, Plan};
use peerwall_core::nft::observed::Observed;
use peerwall_core::policy::BackendChoice;
use peerwall_core::policy::reason::Reason;
use peerwall_core::ruleset::{Ruleset, counter_reason};
use peerwall_core::{iptables, nft};

use super::iptables::{Iptables, IptablesObserved, IptablesPlan};
use super::nft::{Kernel, lacks};
use super::switch;
use crate::json;
use crate::store::since;

/// A backend: nf_tables or iptables.
pub enum Enforcer {
    /// nf_tables, with peerwall's table.
    Nft(Box<Kernel>),
    /// iptables, with peerwall's chains.
    Iptables(Box<Iptables>),
}

/// peerwall's rules as observed by a backend.
pub enum AnyObserved {
    /// Observed by nf_tables.
    Nft(Observed),
    /// Observed by iptables.
    Iptables(IptablesObserved),
}

/// A plan of a backend.
#[derive(Debug, Clone)]
pub enum AnyPlan {
    /// Plan of nf_tables.
    Nft(nft::plan::Plan),
    /// Plan of iptables.
    Iptables(IptablesPlan),
}

impl AnyPlan {
    fn get(&self) -> &dyn Plan {
        match self {
            Self::Nft(plan) => plan,
            Self::Iptables(plan) => plan,
        }
    }
}

impl Plan for AnyPlan {
    fn is_empty(&self) -> bool {
        self.get().is_empty()
    }

    fn summary(&self) -> String {
        self.get().summary()
    }

    fn steps(&self) -> Vec<String> {
        self.get().steps()
    }

    fn step_count(&self) -> usize {
        self.get().step_count()
    }

    fn rebuild(&self) -> Option<&str> {
        self.get().rebuild()
    }
}

impl Enforcer {
    /// Chooses a backend. For [`BackendChoice::Auto`], that is the backend of the last apply since
    /// boot, else [`Self::nft_or_iptables`].
    ///
    /// # Errors
    /// [`BackendError`] if the backend is not available.
    pub fn choose(
        asked: BackendChoice,
        note: impl FnOnce(&BackendError),
    ) -> Result<Self, BackendError> {
        match asked {
            BackendChoice::Nft => Self::nft(),
            BackendChoice::Iptables => Self::iptables(),
            BackendChoice::Auto if since::by_iptables() => Self::iptables(),
            BackendChoice::Auto => Self::nft_or_iptables(note),
        }
    }

    /// Chooses nf_tables, or iptables if the kernel has no nf_tables; `note` receives the error
    /// then. Whether the kernel supports a ruleset shows only in use, see [`Self::run`].
    ///
    /// # Errors
    /// [`BackendError`] if neither is available.
    pub fn nft_or_iptables(note: impl FnOnce(&BackendError)) -> Result<Self, BackendError> {
        match Self::nft() {
            Err(err) if lacks(&err) => {
                note(&err);
                Self::iptables()
            }
            result => result,
        }
    }

    fn nft() -> Result<Self, BackendError> {
        let mut kernel = Kernel::open()?;
        // The answer shows whether the kernel has nf_tables.
        kernel.generation()?;
        Ok(Self::Nft(Box::new(kernel)))
    }

    fn iptables() -> Result<Self, BackendError> {
        Ok(Self::Iptables(Box::new(Iptables::choose()?)))
    }

    /// Runs `act` by the backend that [`Self::choose`] returns; for [`BackendChoice::Auto`] a
    /// second time by iptables if the kernel lacks what the ruleset needs. `note` receives the
    /// reason for iptables.
    ///
    /// # Errors
    /// The last error of `act`, or of choosing.
    pub fn run<T>(
        asked: BackendChoice,
        note: impl Fn(&BackendError),
        mut act: impl FnMut(&mut Self) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        let mut enforcer = Self::choose(asked, &note)?;
        match act(&mut enforcer) {
            Err(err) if asked == BackendChoice::Auto && !enforcer.is_iptables() && lacks(&err) => {
                note(&err);
                act(&mut Self::iptables()?)
            }
            result => result,
        }
    }

    /// Which backend it is.
    pub fn backend(&self) -> json::Backend {
        json::Backend::of(self.is_iptables())
    }

    /// Which iptables; `None` for nf_tables.
    pub fn iptables_json(&self) -> Option<json::IptablesInfo> {
        match self {
            Self::Nft(_) => None,
            Self::Iptables(iptables) => Some(iptables.json()),
        }
    }

    /// Describes which iptables is used and why; `None` for nf_tables.
    pub fn chosen(&self) -> Option<String> {
        match self {
            Self::Nft(_) => None,
            Self::Iptables(iptables) => Some(iptables.describe()),
        }
    }

    /// Whether the backend is iptables.
    pub fn is_iptables(&self) -> bool {
        matches!(self, Self::Iptables(_))
    }

    /// Returns the kernel's ruleset generation; `None` for iptables.
    ///
    /// # Errors
    /// [`BackendError`] if the kernel cannot be read.
    pub fn generation(&mut self) -> Result<Option<u32>, BackendError> {
        match self {
            Self::Nft(kernel) => kernel.generation().map(Some),
            Self::Iptables(_) => Ok(None),
        }
    }

    /// Returns the generation in which the rules were as they were last read or verified; 0 if that
    /// is unknown, and for iptables.
    pub fn known_at(&self) -> u32 {
        match self {
            Self::Nft(kernel) => kernel.known_at().unwrap_or(0),
            Self::Iptables(_) => 0,
        }
    }

    /// Returns the denied packets of each reason, by the counters of the loaded rules.
    ///
    /// # Errors
    /// [`BackendError`] if the rules cannot be read.
    pub fn denied(&mut self) -> Result<BTreeMap<Reason, u64>, BackendError> {
        let counters: Vec<(String, u64)> = match self {
            Self::Nft(kernel) => kernel.counters()?.into_iter().collect(),
            Self::Iptables(iptables) => {
                let seen = Backend::observe(&mut **iptables)?;
                let both = [&seen.v4, &seen.v6].map(iptables::observed::counters);
                let both = both.into_iter().flatten();
                both.map(|(name, (packets, _))| (name, packets)).collect()
            }
        };
        let mut denied = BTreeMap::new();
        for (name, packets) in counters {
            let reason = counter_reason(&name).map(|(_, reason)| reason);
            if let Some(reason) = reason.filter(Reason::is_denial) {
                *denied.entry(reason).or_default() += packets;
            }
        }
        Ok(denied)
    }

    /// Whether peerwall's rules are loaded, by either backend.
    pub fn is_any_loaded(observed: &AnyObserved) -> bool {
        match observed {
            AnyObserved::Nft(seen) => Kernel::is_loaded(seen) || since::by_iptables(),
            AnyObserved::Iptables(seen) => switch::is_loaded(seen),
        }
    }

    /// Whether peerwall's rules are loaded now, by either backend. Does not list rules where the
    /// kernel can tell.
    ///
    /// # Errors
    /// [`BackendError`] if the kernel cannot be read.
    pub fn is_any_loaded_now(&mut self) -> Result<bool, BackendError> {
        match self {
            Self::Nft(kernel) => Ok(kernel.has_table()? || since::by_iptables()),
            Self::Iptables(_) => Ok(Self::is_any_loaded(&self.observe()?)),
        }
    }
}

/// Error for a plan or an observation of the other backend.
fn mixed_up<T>() -> Result<T, BackendError> {
    Err(BackendError::Protocol("it is of another backend".into()))
}

impl Backend for Enforcer {
    type Observed = AnyObserved;
    type Plan = AnyPlan;

    fn observe(&mut self) -> Result<AnyObserved, BackendError> {
        match self {
            Self::Nft(kernel) => kernel.observe().map(AnyObserved::Nft),
            Self::Iptables(iptables) => {
                Backend::observe(&mut **iptables).map(AnyObserved::Iptables)
            }
        }
    }

    fn plan(
        &self,
        wanted: Option<&Ruleset>,
        observed: &AnyObserved,
    ) -> Result<AnyPlan, BackendError> {
        match (self, observed) {
            (Self::Nft(kernel), AnyObserved::Nft(seen)) => {
                kernel.plan(wanted, seen).map(AnyPlan::Nft)
            }
            (Self::Iptables(iptables), AnyObserved::Iptables(seen)) => {
                iptables.plan(wanted, seen).map(AnyPlan::Iptables)
            }
            _ => mixed_up(),
        }
    }

    fn check(&mut self, plan: &AnyPlan) -> Result<(), BackendError> {
        match (self, plan) {
            (Self::Nft(kernel), AnyPlan::Nft(plan)) => kernel.check(plan),
            (Self::Iptables(iptables), AnyPlan::Iptables(plan)) => {
                Backend::check(&mut **iptables, plan)
            }
            _ => mixed_up(),
        }
    }

    fn commit(&mut self, plan: &AnyPlan, observed: &AnyObserved) -> Result<(), BackendError> {
        match (self, plan, observed) {
            (Self::Nft(kernel), AnyPlan::Nft(plan), AnyObserved::Nft(seen)) => {
                kernel.commit(plan, seen)
            }
            (Self::Iptables(iptables), AnyPlan::Iptables(plan), AnyObserved::Iptables(seen)) => {
                Backend::commit(&mut **iptables, plan, seen)
            }
            _ => mixed_up(),
        }
    }

    fn expect(&mut self, wanted: &Ruleset) {
        match self {
            Self::Nft(kernel) => kernel.expect(wanted),
            Self::Iptables(iptables) => Backend::expect(&mut **iptables, wanted),
        }
    }

    fn verify(&mut self, wanted: Option<&Ruleset>) -> Result<(), BackendError> {
        match self {
            Self::Nft(kernel) => kernel.verify(wanted),
            Self::Iptables(iptables) => iptables.verify(wanted),
        }
    }

    fn ruleset(observed: &AnyObserved) -> Option<Ruleset> {
        match observed {
            AnyObserved::Nft(seen) => Kernel::ruleset(seen),
            AnyObserved::Iptables(seen) => Iptables::ruleset(seen),
        }
    }

    fn is_loaded(observed: &AnyObserved) -> bool {
        match observed {
            AnyObserved::Nft(seen) => Kernel::is_loaded(seen),
            AnyObserved::Iptables(seen) => Iptables::is_loaded(seen),
        }
    }

    fn done(&mut self) {
        match self {
            Self::Nft(kernel) => kernel.done(),
            Self::Iptables(iptables) => iptables.done(),
        }
    }
}
