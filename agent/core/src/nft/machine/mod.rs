//! Evaluates the kernel's own rules on a packet, instruction by instruction, as the kernel does.
//!
//! Rules of any program are evaluated, not only peerwall's. What a packet's description does not
//! say is unknown, bit by bit (`bits`); where unknown bits decide, each answer is tried
//! (`choices`).

mod bits;
mod choices;
mod frame;
mod loads;
mod registers;
mod run;
mod sets;
mod step;
mod tables;

pub use choices::{Choices, Explored, Question, explore};
pub use frame::{Frame, Host, RouteKind};
pub use run::{At, Treatment, Way, treat};
pub use sets::KernelSet;
pub use tables::{BaseHook, KernelChain, KernelRule, KernelTable, KernelTables};
