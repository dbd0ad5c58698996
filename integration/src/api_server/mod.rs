//! A double of the Kubernetes API server: lists of nodes in pages, watches, and ways in which a
//! real one fails or lies.
//!
//! Semantics: "Kubernetes API Concepts". A list is consistent over its pages, a watch sends each
//! change after its revision once and in order, and both refuse revisions that were compacted.

mod serve;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};

use crate::certificates::{Authority, Issued};

/// What a server does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It accepts connections and does nothing, as if it was stopped by SIGSTOP.
    Frozen,
    /// It answers 500 to everything.
    Internal,
    /// It answers with a page in HTML, as a captive portal does.
    Html,
    /// It ends lists in their middle.
    Torn,
    /// It says that the list has no nodes.
    Empty,
    /// It denies access to nodes (403).
    Forbidden,
    /// It denies access to the namespace kube-system.
    NoIdentity,
    /// The second page of a list has expired (410), once.
    ExpiredPages,
    /// It accepts watches, and never sends anything.
    SilentWatch,
    /// The first watch fails, because its revision is too old.
    ExpiredWatch,
}

/// What the cluster's store has, and what was asked for.
#[derive(Debug, Default)]
pub struct State {
    /// Revision of the last change.
    pub revision: u64,
    /// UID of the namespace kube-system.
    pub uid: String,
    nodes: BTreeMap<String, Value>,
    /// Changes: revision, type, object.
    changes: Vec<(u64, &'static str, Value)>,
    /// Changes up to this revision can no longer be watched.
    compacted: u64,
    /// Accepted tokens; all requests are accepted if there are none.
    pub tokens: BTreeSet<String>,
    /// What it does wrong.
    pub faults: Vec<Fault>,
    /// Lists, by the tokens of their next pages.
    pages: BTreeMap<String, (u64, Vec<Value>)>,
    /// Number of complete lists, watches and requests without a valid token so far.
    pub lists: usize,
    /// Number of watches so far.
    pub watches: usize,
    /// Number of requests that were refused so far.
    pub refused: usize,
    /// Selectors that were asked for.
    pub selectors: BTreeSet<String>,
}

impl State {
    fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    /// Forgets a fault that happens once. Returns whether it was there.
    fn once(&mut self, fault: Fault) -> bool {
        let had = self.has(fault);
        self.faults.retain(|each| *each != fault);
        had
    }

    fn change(&mut self, kind: &'static str, mut node: Value) {
        self.revision += 1;
        node["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let name = node["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        match kind {
            "DELETED" => drop(self.nodes.remove(&name)),
            _ => drop(self.nodes.insert(name, node.clone())),
        }
        self.changes.push((self.revision, kind, node));
    }
}

type Shared = Arc<(Mutex<State>, Condvar)>;

/// A server that runs until the process ends.
#[derive(Clone)]
pub struct ApiServer {
    shared: Shared,
    address: SocketAddr,
    is_tls: bool,
}

/// Certificates of a server, and what it asks of clients.
pub struct ServerTls<'a> {
    /// Its certificate.
    pub own: &'a Issued,
    /// Authority of clients' certificates, if they must have one.
    pub clients: Option<&'a Authority>,
}

impl ApiServer {
    /// Starts a server on 127.0.0.1, with or without TLS, for a cluster with this UID.
    ///
    /// # Panics
    /// If that fails.
    pub fn start(uid: &str, tls: Option<&ServerTls<'_>>) -> Self {
        let state = State {
            revision: 1000,
            uid: uid.to_owned(),
            ..State::default()
        };
        Self::serve(Arc::new((Mutex::new(state), Condvar::new())), tls)
    }

    fn serve(shared: Shared, tls: Option<&ServerTls<'_>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback is up");
        let address = listener.local_addr().expect("it is bound");
        let config = tls.map(|tls| Arc::new(config(tls)));
        let (is_tls, served) = (config.is_some(), Arc::clone(&shared));
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (shared, config) = (Arc::clone(&served), config.clone());
                // Clients go away in the middle of everything.
                thread::spawn(move || drop(serve::connection(socket, config, &shared)));
            }
        });
        Self {
            shared,
            address,
            is_tls,
        }
    }

    /// URL of the server.
    pub fn url(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// TCP port of the server.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Its state, to look at and to change.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to do something wrong.
    pub fn fail(&self, fault: Fault) {
        self.state().faults.push(fault);
        self.shared.1.notify_all();
    }

    /// Does nothing wrong any more.
    pub fn recover(&self) {
        self.state().faults.clear();
        self.shared.1.notify_all();
    }

    /// Adds or replaces a node.
    pub fn put(&self, node: Value) {
        let mut state = self.state();
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        let kind = match state.nodes.contains_key(name) {
            true => "MODIFIED",
            false => "ADDED",
        };
        state.change(kind, node);
        drop(state);
        self.shared.1.notify_all();
    }

    /// Deletes a node.
    ///
    /// # Panics
    /// If it does not exist.
    pub fn delete(&self, name: &str) {
        let mut state = self.state();
        let node = state.nodes[name].clone();
        state.change("DELETED", node);
        drop(state);
        self.shared.1.notify_all();
    }

    /// Sends each node again, as the kubelets' reports of their health do.
    pub fn heartbeat(&self) {
        let mut state = self.state();
        for mut node in state.nodes.values().cloned().collect::<Vec<_>>() {
            let beat = json!([{"type": "Ready", "lastHeartbeatTime": state.revision}]);
            node["status"]["conditions"] = beat;
            state.change("MODIFIED", node);
        }
        drop(state);
        self.shared.1.notify_all();
    }

    /// Forgets all changes so far.
    pub fn compact(&self) {
        let mut state = self.state();
        state.compacted = state.revision;
        state.changes.clear();
    }
}

/// A node with its addresses of type InternalIP, and some text beside.
pub fn node(name: &str, addresses: &[&str], padding_bytes: usize) -> Value {
    let address = |text: &&str| json!({"type": "InternalIP", "address": text});
    let addresses: Vec<_> = addresses.iter().map(address).collect();
    json!({
        "metadata": {"name": name, "managedFields": "x".repeat(padding_bytes)},
        "status": {"addresses": addresses},
    })
}

fn config(tls: &ServerTls<'_>) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions();
    let builder = builder.expect("the provider has them");
    let builder = match tls.clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates(&authority.certificate()));
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().expect("there is an authority"))
        }
    };
    let key = PrivateKeyDer::from_pem_file(&tls.own.key).expect("openssl wrote it");
    let chain = certificates(&tls.own.certificate);
    builder
        .with_single_cert(chain, key)
        .expect("openssl wrote them")
}

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    let found = CertificateDer::pem_file_iter(path).expect("openssl wrote it");
    found.collect::<Result<_, _>>().expect("openssl wrote it")
}
