//! Written facts of another host, for checking its policy: files of `discover`, interfaces, routes
//! and neighbours.
//!
//! ```toml
//! [files]                                        # paths as in `discover`; networks, or the text
//! "/run/flannel/subnet.env" = ["10.244.0.0/16"]
//!
//! [[interface]]
//! name      = "eth0"
//! addresses = ["192.0.2.10/24"]
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::context::Context;
use super::document;
use super::fields::{Data, Fields, Value, place_of};
use super::files::{Files, NoFiles, ReadError, Text};
use super::has_errors;
use crate::diagnostic::{Code, Diagnostic, FileId, Sources};
use crate::net::addr::Family;
use crate::net::host::{Host, Interface, Neighbour, RT_TABLE_MAIN, Route};
use crate::net::link::Link;
use ipnet::IpNet;

/// Facts of another host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Discovered {
    /// Texts of `discover` files, by their paths in the policy.
    texts: BTreeMap<String, String>,
    links: Vec<Link>,
    /// Interfaces, routes and neighbours; `None` if the file lists none.
    host: Option<Host>,
}

impl Discovered {
    /// Parses TOML.
    ///
    /// # Errors
    /// All errors in the text, with their places.
    pub fn parse(name: &str, text: &str) -> Result<Self, (Sources, Vec<Diagnostic>)> {
        let mut sources = Sources::default();
        let main = sources.add(name, text);
        let mut cx = Context::new(&NoFiles, sources, main, text);
        let (table, errors) = document::parse(text);
        for err in &errors {
            super::file::syntax_error(&mut cx, main, text, err);
        }
        let fields = Fields::new(main, &table, 0..text.len().min(1));
        let found = parse(&mut cx, fields, errors.is_empty());
        match has_errors(&cx.diagnostics) {
            true => Err((cx.sources, cx.diagnostics)),
            false => Ok(found),
        }
    }
}

fn parse(cx: &mut Context<'_>, mut fields: Fields<'_>, is_whole: bool) -> Discovered {
    let mut found = Discovered::default();
    let file = fields.file();
    if let Some((_, value)) = fields.take("files")
        && let Some(table) = cx.table(file, value, "files")
    {
        for (path, value) in table.entries() {
            let text = text_of(cx, file, value);
            found.texts.insert(path.get_ref().to_string(), text);
        }
    }
    let mut host = Host::default();
    let mut is_told = false;
    for (key, read) in [
        (
            "interface",
            interface as fn(&mut Context<'_>, Fields<'_>, &mut Host, &mut Vec<Link>),
        ),
        ("route", route),
        ("neighbour", neighbour),
    ] {
        let Some((_, value)) = fields.take(key) else {
            continue;
        };
        is_told = true;
        for table in tables(cx, file, value, key) {
            read(cx, table, &mut host, &mut found.links);
        }
    }
    found.host = is_told.then_some(host);
    if is_whole {
        let known = ["files", "interface", "route", "neighbour"];
        cx.diagnostics
            .extend(fields.unknown(&known, "the file of discovered facts"));
    }
    found
}

/// Returns the text of a `discover` file: as written, or generated from a list of networks.
fn text_of(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) -> String {
    if let Some(text) = value.get_ref().as_str() {
        return text.to_owned();
    }
    let networks = cx.addresses(file, value, "networks");
    let mut text = String::new();
    for (family, key) in [
        (Family::V4, "FLANNEL_NETWORK"),
        (Family::V6, "FLANNEL_IPV6_NETWORK"),
    ] {
        let mut of_family = networks
            .iter()
            .filter(|each| Family::of(each.net.addr()) == family);
        if let Some(each) = of_family.next() {
            text.push_str(&format!("{key}={}\n", each.net));
        }
        if let Some(more) = of_family.next() {
            cx.error(
                Diagnostic::error(
                    Code::OneValueOnly,
                    more.place.clone(),
                    "flannel has one network of each family",
                )
                .help("remove one of them"),
            );
        }
    }
    text
}

fn tables<'v>(
    cx: &mut Context<'_>,
    file: FileId,
    value: &'v Value<'v>,
    what: &str,
) -> Vec<Fields<'v>> {
    let list = value.get_ref().as_array().into_iter().flatten();
    let tables = list.filter_map(|item| match item.get_ref() {
        Data::Table(table) => Some(Fields::new(file, table, item.span())),
        Data::String(_)
        | Data::Integer(_)
        | Data::Float
        | Data::Boolean(_)
        | Data::Datetime
        | Data::Array(_) => None,
    });
    let tables: Vec<Fields<'v>> = tables.collect();
    if tables.is_empty() {
        let error = Diagnostic::error(
            Code::WrongType,
            place_of(file, value),
            format!("`{what}` must be a list of tables"),
        );
        cx.error(error.help(format!(
            "write [[{what}]], with two brackets, for each entry"
        )));
    }
    tables
}

fn interface(cx: &mut Context<'_>, mut fields: Fields<'_>, host: &mut Host, links: &mut Vec<Link>) {
    let file = fields.file();
    let name = required(cx, &mut fields, "name", |text| Some(text.to_owned()));
    let kind = optional(cx, &mut fields, "kind", |text| Some(text.to_owned()));
    let local = optional(cx, &mut fields, "local", |text| text.parse::<IpAddr>().ok());
    let addresses = match fields.take("addresses") {
        Some((_, value)) => {
            let texts = cx.strings(file, value, "addresses");
            let parsed = texts.into_iter().filter_map(|(text, place)| {
                let net = text.parse::<IpNet>().ok();
                if net.is_none() {
                    let error = Diagnostic::error(
                        Code::InvalidAddress,
                        place,
                        format!("`{text}` is not an address with a prefix length"),
                    );
                    cx.error(error.help("like \"192.0.2.10/24\""));
                }
                net
            });
            parsed.collect()
        }
        None => Vec::new(),
    };
    let port = number(cx, &mut fields, "port").and_then(|port| u16::try_from(port).ok());
    let vni = number(cx, &mut fields, "vni");
    let known = ["name", "kind", "local", "addresses", "port", "vni"];
    cx.diagnostics.extend(fields.unknown(&known, "interface"));
    let Some(name) = name else { return };
    links.extend(kind.clone().map(|kind| Link {
        name: name.clone(),
        kind,
        port,
        vni,
        local,
    }));
    let index = u32::try_from(host.interfaces.len() + 1).unwrap_or(u32::MAX);
    host.interfaces.push(Interface {
        index,
        name,
        kind,
        addresses,
        ..Interface::default()
    });
}

fn route(cx: &mut Context<'_>, mut fields: Fields<'_>, host: &mut Host, _: &mut Vec<Link>) {
    let destination = required(cx, &mut fields, "to", |text| match text {
        "default" => "0.0.0.0/0".parse().ok(),
        _ => text.parse::<IpNet>().ok(),
    });
    let interface = required(cx, &mut fields, "interface", |text| Some(text.to_owned()));
    let gateway = optional(cx, &mut fields, "gateway", |text| text.parse().ok());
    let known = ["to", "interface", "gateway"];
    cx.diagnostics.extend(fields.unknown(&known, "route"));
    if let (Some(destination), Some(interface)) = (destination, interface) {
        host.routes.push(Route {
            destination,
            interface,
            gateway,
            table: RT_TABLE_MAIN,
        });
    }
}

fn neighbour(cx: &mut Context<'_>, mut fields: Fields<'_>, host: &mut Host, _: &mut Vec<Link>) {
    let address = required(cx, &mut fields, "address", |text| text.parse().ok());
    let interface = required(cx, &mut fields, "interface", |text| Some(text.to_owned()));
    let mac = required(cx, &mut fields, "mac", parse_mac);
    let known = ["address", "interface", "mac"];
    cx.diagnostics.extend(fields.unknown(&known, "neighbour"));
    if let (Some(address), Some(interface), Some(mac)) = (address, interface, mac) {
        host.neighbours.push(Neighbour {
            address,
            interface,
            mac,
        });
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let octets = text
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16).ok());
    octets.collect::<Option<Vec<u8>>>()?.try_into().ok()
}

fn required<T>(
    cx: &mut Context<'_>,
    fields: &mut Fields<'_>,
    key: &'static str,
    parse: fn(&str) -> Option<T>,
) -> Option<T> {
    let place = fields.place();
    let errors = cx.diagnostics.len();
    let found = optional(cx, fields, key, parse);
    if found.is_none() && cx.diagnostics.len() == errors {
        cx.error(
            Diagnostic::error(Code::MissingKey, place, format!("`{key}` is missing"))
                .help(format!("add {key} = \"…\"")),
        );
    }
    found
}

fn optional<T>(
    cx: &mut Context<'_>,
    fields: &mut Fields<'_>,
    key: &'static str,
    parse: fn(&str) -> Option<T>,
) -> Option<T> {
    let file = fields.file();
    let (_, value) = fields.take(key)?;
    let found = value.get_ref().as_str().and_then(parse);
    if found.is_none() {
        let error = Diagnostic::error(
            Code::InvalidChoice,
            place_of(file, value),
            format!("`{key}` is not valid"),
        );
        cx.error(error.help("see `check --discovered` in docs/policy.md"));
    }
    found
}

fn number(cx: &mut Context<'_>, fields: &mut Fields<'_>, key: &'static str) -> Option<u32> {
    let file = fields.file();
    let (_, value) = fields.take(key)?;
    let found = value
        .get_ref()
        .as_integer()
        .and_then(|number| u32::try_from(number).ok());
    if found.is_none() {
        let error = Diagnostic::error(
            Code::WrongType,
            place_of(file, value),
            format!("`{key}` must be a number"),
        );
        cx.error(error.help("write it without quotes"));
    }
    found
}

/// Files of a policy that may be for another host.
pub struct Elsewhere<'f> {
    files: &'f dyn Files,
    discovered: Option<Discovered>,
}

impl<'f> Elsewhere<'f> {
    /// Creates a source that reads the policy from `files`, and facts from `discovered` if it is
    /// given.
    pub fn new(files: &'f dyn Files, discovered: Option<Discovered>) -> Self {
        Self { files, discovered }
    }
}

impl Files for Elsewhere<'_> {
    fn read(&self, path: &str, relative_to: &str) -> Result<Text, ReadError> {
        let discovered = self.discovered.as_ref();
        match discovered.and_then(|discovered| discovered.texts.get(path)) {
            Some(text) => Ok(Text {
                name: path.to_owned(),
                text: text.clone(),
                doubts: Vec::new(),
            }),
            None => self.files.read(path, relative_to),
        }
    }

    fn glob(&self, pattern: &str, relative_to: &str) -> Result<Vec<String>, ReadError> {
        self.files.glob(pattern, relative_to)
    }

    fn beneath(&self) -> Option<&dyn Files> {
        Some(self.files)
    }

    fn last_good(&self, path: &str, relative_to: &str) -> Result<Option<Text>, ReadError> {
        match self.discovered {
            // The record on this host does not describe the other one.
            Some(_) => Ok(None),
            None => self.files.last_good(path, relative_to),
        }
    }

    fn is_elsewhere(&self) -> bool {
        true
    }

    fn link(&self, name: &str) -> Result<Option<Link>, ReadError> {
        match &self.discovered {
            Some(discovered) => {
                let mut links = discovered.links.iter();
                Ok(links.find(|link| link.name == name).cloned())
            }
            None => self.files.link(name),
        }
    }

    fn host(&self) -> Result<Option<Host>, ReadError> {
        match &self.discovered {
            Some(discovered) => Ok(discovered.host.clone()),
            None => self.files.host(),
        }
    }
}
