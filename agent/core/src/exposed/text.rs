//! The words of what is exposed.

use std::net::IpAddr;

use super::{Exposure, PublishedPort, Reach, Service, ServiceAddresses};
use crate::explain::live::Publisher;
use crate::import::meaning::Admitted;
use crate::words::count;

/// Escapes control characters, escape sequences and invisible characters of foreign names.
pub fn printable(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '\'' | '"' | '\\' => text.push(c),
            _ => text.extend(c.escape_debug()),
        }
    }
    text
}

/// A port with the words about it, for lists and maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row<'e> {
    /// Port, or a number of addresses.
    pub port: String,
    /// Program, owner and destination.
    pub what: String,
    pub state: Reach,
    /// The state in words.
    pub words: String,
    pub from: &'e [Admitted],
}

impl Publisher {
    /// Returns the name of the program.
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "Docker",
            Self::KubeProxy => "kube-proxy",
            Self::Podman => "Podman",
            Self::Portmap => "the CNI plugin portmap",
            Self::Other => "other rules",
        }
    }
}

/// Describes a state: `closed`, or who drops the packets.
pub fn state_words(state: Reach, dropped_by: Option<&str>) -> String {
    match (state, dropped_by) {
        (Reach::Reached, _) => "reached".to_owned(),
        (Reach::Closed, _) => "closed".to_owned(),
        (Reach::Dropped, by) => {
            let by = printable(by.unwrap_or("another firewall"));
            format!("accepted by the policy, dropped by {by}")
        }
    }
}

impl Service {
    /// Returns the process and its owner.
    pub fn program(&self) -> String {
        let process = self
            .process
            .as_deref()
            .map_or_else(|| "?".to_owned(), printable);
        match &self.owner {
            Some(owner) => format!("{process} ({})", printable(&owner.to_string())),
            None => process,
        }
    }

    /// Describes the state.
    pub fn words(&self) -> String {
        let state = state_words(self.state, self.dropped_by.as_deref());
        let is_everywhere = self.addresses.iter().any(IpAddr::is_unspecified);
        match (is_everywhere, self.addresses.is_empty()) {
            (true, _) => format!("listens on every address, {state}"),
            (false, false) => format!("listens on {}, {state}", several(&self.addresses)),
            (false, true) => state,
        }
    }
}

impl PublishedPort {
    /// Returns the program and the destinations.
    pub fn program(&self) -> String {
        let to: Vec<&str> = self.to.iter().map(String::as_str).collect();
        let more = to.len().saturating_sub(3);
        let mut names = to.get(..3).unwrap_or(&to).join(" or ");
        if more > 0 {
            names.push_str(&format!(" or {more} more"));
        }
        format!("{} to {names}", self.publisher.name())
    }

    /// Describes the state.
    pub fn words(&self) -> String {
        let state = state_words(self.state, self.dropped_by.as_deref());
        format!("published by {}, {state}", self.publisher.name())
    }
}

impl ServiceAddresses {
    /// Returns the program and an example.
    pub fn program(&self) -> String {
        format!("{}, such as {}", self.publisher.name(), self.example)
    }

    /// Returns the number of addresses in words.
    pub fn title(&self) -> String {
        count(self.count, "service address")
    }
}

fn several(addresses: &std::collections::BTreeSet<IpAddr>) -> String {
    let names: Vec<String> = addresses.iter().take(3).map(IpAddr::to_string).collect();
    match addresses.len() > 3 {
        true => format!("{} and others", names.join(", ")),
        false => names.join(", "),
    }
}

impl Exposure {
    /// Returns all services and published ports in one form.
    pub(super) fn rows(&self) -> Vec<Row<'_>> {
        let services = self.services.iter().map(|each| Row {
            port: each.port.clone(),
            what: each.program(),
            state: each.state,
            words: each.words(),
            from: &each.from,
        });
        let published = self.published.iter().map(|each| Row {
            port: each.port.clone(),
            what: each.program(),
            state: each.state,
            words: each.words(),
            from: &each.from,
        });
        let others = self.service_addresses.iter().map(|each| Row {
            port: each.title(),
            what: each.program(),
            state: each.state,
            words: format!(
                "published by {}, {}",
                each.publisher.name(),
                state_words(each.state, None)
            ),
            from: &each.from,
        });
        services.chain(published).chain(others).collect()
    }
}
