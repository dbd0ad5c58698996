//! The environment of a process: transient errors, memory, systemd, detached processes, terminals
//! and the system log.

pub mod child;
pub mod cpu;
pub mod detached;
pub mod journal;
pub mod logging;
pub mod memory;
pub mod namespace;
pub mod notice;
pub mod passing;
pub mod scope;
pub mod signals;
pub mod watchdog;
