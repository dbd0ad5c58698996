//! `peerwall init`: writes a first policy from what is found on this host.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use peerwall_core::net::port::TCP;
use peerwall_core::policy::initial::{HostFacts, Listener, initial, routes};
use schemars::JsonSchema;
use serde::Serialize;

use super::{DONE, trouble};
use crate::cli::InitArgs;
use crate::host::caller::Caller;
use crate::host::{self, facts, listeners, ssh_server};
use crate::json::{ErrorCode, Failure};
use crate::output::Output;
use crate::secure_file::plain;

/// Mode of the new file: secrets have no place in a policy, and only root may change it.
const MODE: u32 = 0o644;

/// The result of `init`.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Init {
    /// Path of the new file; null if the policy was printed.
    path: Option<PathBuf>,
    /// The policy, as TOML.
    policy: String,
}

pub(super) fn run(args: &InitArgs) -> u8 {
    let output = Output::new(args.output.json);
    let policy = initial(&gather());
    let path = (args.policy != Path::new("-")).then(|| args.policy.clone());
    if let Some(path) = &path
        && let Err(err) = create(path, &policy)
    {
        let err = Unwritten {
            path: path.clone(),
            source: err,
        };
        return trouble("init", err, &output);
    }
    match &path {
        _ if output.is_json() => output.json(&Init { path, policy }),
        None => output.text(&policy),
        Some(path) => output.text(&next(path)),
    }
    DONE
}

/// Says what to do with the new file.
fn next(path: &Path) -> String {
    let path = path.display();
    format!(
        "wrote {path}: what it does not list is closed\n\
         next:\n  \
         edit {path}: name the peers, open ports\n  \
         peerwall check {path}\n  \
         peerwall plan {path}\n  \
         peerwall apply --confirm 60s {path}\n  \
         peerwall confirm                    # from another connection\n"
    )
}

/// The file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.why())]
struct Unwritten {
    path: PathBuf,
    source: io::Error,
}

impl Unwritten {
    fn why(&self) -> String {
        let path = self.path.display();
        let kind = self.source.kind();
        if kind == io::ErrorKind::AlreadyExists {
            return format!(
                "{path} exists, and init never overwrites a file: name another one, or `-` to \
                 print the policy"
            );
        }
        if kind == io::ErrorKind::NotFound {
            return format!("cannot write {path}: its directory does not exist");
        }
        format!("cannot write {path}: {}", plain(&self.source))
    }
}

impl From<Unwritten> for Failure {
    fn from(err: Unwritten) -> Self {
        Self::new(ErrorCode::Io, err)
    }
}

/// Creates the file, and removes it again if it cannot be written to the end.
fn create(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(path)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all());
    if written.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_file(path);
    }
    written
}

fn gather() -> HostFacts {
    let host = host::read_or_empty();
    let listeners = listeners::find();
    let ssh_ports = ssh_server::ports();
    let is_ssh = |each: &Listener| each.protocol == TCP && ssh_ports.contains(&each.port);
    let has_ssh = listeners.iter().any(is_ssh);
    let pods = facts::gather().pod_networks;
    let flannel = (!pods.is_empty()).then(|| (facts::FLANNEL_SUBNET_ENV.to_owned(), pods));
    let mut nodes = match flannel {
        Some(_) => host::tunnel_ends(&host, "flannel").unwrap_or_else(|err| {
            log::warn!("cannot read the other nodes of flannel's tunnel: {err}");
            BTreeSet::new()
        }),
        None => BTreeSet::new(),
    };
    let networks = flannel.as_ref().map_or(&[][..], |(_, networks)| networks);
    let routed = routes::nodes(&host, networks);
    nodes.extend(routed.addresses);
    let interfaces = host.interfaces.iter();
    HostFacts {
        addresses: interfaces
            .clone()
            .flat_map(|each| each.addresses.iter().map(|net| (each.name.clone(), *net)))
            .collect(),
        interfaces: interfaces.map(|each| each.name.clone()).collect(),
        flannel,
        nodes,
        is_direct: routed.is_direct,
        tunnels: routes::tunnels(&host),
        caller: Caller::here().ssh.map(|ssh| ssh.client),
        has_ssh,
        ssh_ports,
        listeners,
    }
}
