//! A policy from the file system, ready to be put in force.

use std::io::IsTerminal as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use peerwall_core::compile::{Origins, compile};
use peerwall_core::diagnostic::{Diagnostic, JsonDiagnostic, Severity, Sources};
use peerwall_core::expect;
use peerwall_core::policy::load::{Files, load};
use peerwall_core::policy::{Policy, host_check, suspicious};
use peerwall_core::ruleset::Ruleset;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::caller::Caller;
use crate::facts;
use crate::files::FileSystem;
use crate::output::complain;

/// A policy that parsed, is compiled and meets its own expectations.
pub struct Ready {
    /// What it says.
    pub policy: Policy,
    /// What it becomes.
    pub ruleset: Ruleset,
    /// Where each rule comes from.
    pub origins: Origins,
    /// Its files.
    pub sources: Sources,
    /// What is suspicious about it.
    pub warnings: Vec<Diagnostic>,
    /// Where it does not fit this host, if it was [compared](Self::compare_with_host).
    pub misfits: Vec<Diagnostic>,
    /// SHA-256 of all its files, in hexadecimal.
    pub digest: String,
}

/// Why there is no [`Ready`].
#[derive(Debug, Serialize)]
pub struct NotReady {
    /// What is wrong with the policy; empty if it could not even be read.
    pub diagnostics: Vec<JsonDiagnostic>,
    /// One sentence.
    pub error: String,
    /// The same for people.
    #[serde(skip)]
    pub text: String,
}

/// Reads, compiles and tests a policy.
///
/// # Errors
/// [`NotReady`] with everything that is wrong with it.
pub fn prepare(path: &Path, files: &dyn Files) -> Result<Ready, Box<NotReady>> {
    let text = FileSystem::text(path).map_err(|error| {
        let hint = match path == Path::new(crate::cli::POLICY) {
            true => "; write one there (see docs/policy.md), or name another",
            false => "",
        };
        Box::new(NotReady {
            diagnostics: Vec::new(),
            text: format!("error: {error}{hint}\n"),
            error,
        })
    })?;
    let loaded = load(&path.display().to_string(), &text, files);
    let mut diagnostics = loaded.diagnostics;
    let Some(policy) = loaded.policy else {
        return Err(Box::new(not_ready(&loaded.sources, &diagnostics)));
    };
    diagnostics.extend(suspicious::warnings(&policy));
    in_order(&mut diagnostics);
    let (ruleset, origins) = compile(&policy);
    let unmet = expect::check(&policy, &ruleset);
    if !unmet.is_empty() {
        diagnostics.extend(unmet);
        return Err(Box::new(not_ready(&loaded.sources, &diagnostics)));
    }
    Ok(Ready {
        digest: digest(&loaded.sources),
        policy,
        ruleset,
        origins,
        sources: loaded.sources,
        warnings: diagnostics,
        misfits: Vec::new(),
    })
}

fn not_ready(sources: &Sources, diagnostics: &[Diagnostic]) -> NotReady {
    let color = std::io::stderr().is_terminal();
    let errors = diagnostics
        .iter()
        .filter(|d| d.severity == Severity::Error)
        .count();
    let error = format!(
        "{errors} error{} in the policy",
        if errors == 1 { "" } else { "s" }
    );
    NotReady {
        diagnostics: diagnostics.iter().map(|d| sources.json(d)).collect(),
        text: format!(
            "{}error: {error}; nothing was changed\n",
            sources.render(diagnostics, color)
        ),
        error,
    }
}

fn in_order(diagnostics: &mut [Diagnostic]) {
    diagnostics.sort_by_key(|d| (d.place.file, d.place.span.start));
}

/// SHA-256 over names and texts of files.
fn digest(sources: &Sources) -> String {
    let mut hasher = Sha256::new();
    for (name, text) in sources.all() {
        for part in [name, text] {
            hasher.update(part.len().to_string());
            hasher.update(":");
            hasher.update(part);
        }
    }
    hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

impl Ready {
    /// Whether only root, or who runs this, can have written the policy.
    ///
    /// # Errors
    /// A sentence that names the file that others can write.
    pub fn check_permissions(&self) -> Result<(), String> {
        // SAFETY: geteuid cannot fail and touches nothing.
        let me = unsafe { libc::geteuid() };
        for (name, _) in self.sources.all() {
            // What is no file is none that others can write.
            let Ok(meta) = std::fs::metadata(name) else {
                continue;
            };
            let owner = meta.uid();
            let why = if owner != 0 && owner != me {
                format!("belongs to user {owner}")
            } else if meta.mode() & 0o022 != 0 {
                format!("can be written by others (mode {:o})", meta.mode() & 0o7777)
            } else {
                continue;
            };
            return Err(format!(
                "{name} {why}: whoever writes the policy decides who gets in; chown root and chmod go-w it, or use --insecure-permissions"
            ));
        }
        Ok(())
    }

    /// Finds where the policy does not fit this host. Nothing, if the host cannot be read.
    pub fn compare_with_host(&mut self, files: &dyn Files) {
        let Some(host) = files.host() else {
            return;
        };
        let caller = Caller::here();
        let known = caller.ssh.iter().chain(&caller.maybe);
        let administrators: Vec<_> = known.map(|ssh| ssh.client).collect();
        self.misfits = host_check::compare(&self.policy, &host, &administrators);
        in_order(&mut self.misfits);
    }

    /// Warns of interfaces that route addresses of the loopback.
    pub fn look_for_route_localnet(&mut self) {
        let interfaces = facts::route_localnet();
        if let Some(start) = self.sources.start().filter(|_| !interfaces.is_empty()) {
            self.misfits.push(Diagnostic::warning(start, format!(
                "route_localnet is 1 for {} on this host", interfaces.join(", ")
            )).help(
                "neighbours could reach services that listen on 127.0.0.1 (CVE-2020-8558); peerwall drops packets for 127.0.0.0/8 that come from outside, so this is for information; kube-proxy sets it unless it runs with --iptables-localhost-nodeports=false",
            ));
        }
    }

    /// Everything that is suspicious, for machines.
    pub fn json_warnings(&self) -> Vec<JsonDiagnostic> {
        let all = self.warnings.iter().chain(&self.misfits);
        all.map(|d| self.sources.json(d)).collect()
    }

    /// Prints the warnings for people.
    pub fn warn(&self) {
        let color = std::io::stderr().is_terminal();
        complain(&self.sources.render(&self.warnings, color));
        self.warn_of_misfits();
    }

    /// Prints where the policy does not fit this host.
    pub fn warn_of_misfits(&self) {
        let color = std::io::stderr().is_terminal();
        complain(&self.sources.render(&self.misfits, color));
    }
}
