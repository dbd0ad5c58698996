//! Members of a cluster, from a source outside of the policy: Kubernetes, etcd, DNS or a file.
//!
//! A program writes a [`Listing`], and [`Members`] decides what of it comes into force: the agent
//! does not trust that program. Guarantees, whatever a source says or does not say:
//!
//! - A member meets the [`Limits`] of the policy.
//! - A source that says nothing, nothing complete, or nothing new removes no member.
//! - An empty answer removes no member before somebody accepts it.
//! - A member is removed only if it was missing for [`Limits::grace`] without interruption, and for
//!   [`Limits::hold`] longer if more than [`Limits::max_loss`] of the nodes are missing.

mod again;
mod change;
mod joins;
mod limits;
mod listing;
mod loss;
mod members;
#[cfg(test)]
mod tests;

pub use again::Parser;
pub use change::{Change, Forget, Held, HeldWhy, Saved};
pub use limits::{Limits, MAX_DEFAULT, MAX_HIGHEST, PER_NODE_MAX, Refused};
pub use listing::{Entry, LINE_MAX, Listing, ListingError, parse};
pub use members::Members;
