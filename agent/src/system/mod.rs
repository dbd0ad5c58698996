//! The operating system around a process: errors that pass, systemd, other processes, terminals and logs.

pub mod detached;
pub mod journal;
pub mod logging;
pub mod notice;
pub mod passing;
pub mod scope;
pub mod watchdog;
