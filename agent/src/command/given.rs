//! The policy of a command.

use std::path::{Path, PathBuf};

use peerwall_core::diagnostic::JsonDiagnostic;
use peerwall_core::policy::load::Files;

use super::report;
use crate::output::Output;
use crate::policy_file::files::FileSystem;
use crate::policy_file::inputs::{Inputs, Recorder};
use crate::policy_file::{LoadError, LoadedPolicy, prepare};

/// A policy that was given by its path, and read once.
pub(super) struct Given {
    pub(super) path: PathBuf,
    pub(super) read: Result<LoadedPolicy, Box<LoadError>>,
    /// What it depends on, if that was recorded and is known.
    pub(super) inputs: Option<Inputs>,
}

impl Given {
    /// Reads the policy, and compares it with this host.
    pub(super) fn read(path: &Path, files: &dyn Files) -> Self {
        let mut read = prepare(path, files);
        if let Ok(ready) = &mut read {
            ready.compare_with_host(files);
            ready.look_for_permissions();
        }
        Self {
            path: path.to_owned(),
            read,
            inputs: None,
        }
    }

    /// The same, and records what the policy depends on.
    pub(super) fn recorded(path: &Path, files: &FileSystem) -> Self {
        let recorder = Recorder::new(files);
        let mut given = Self::read(path, &recorder);
        let ready = given.read.as_ref().ok();
        given.inputs = ready.and_then(|ready| Inputs::of(path, ready, recorder));
        given
    }

    /// Returns the mismatches with this host as JSON.
    pub(super) fn misfits(&self) -> Vec<JsonDiagnostic> {
        let ready = self.read.as_ref().ok();
        let misfits = ready.into_iter().flat_map(|ready| {
            let misfits = ready.misfits.iter();
            misfits.map(|misfit| ready.sources.json(misfit))
        });
        misfits.collect()
    }

    /// Prints the mismatches with this host as text.
    pub(super) fn warn_of_misfits(&self, output: &Output) {
        if let Ok(ready) = &self.read
            && !output.is_json()
        {
            report::misfits(ready);
        }
    }
}
