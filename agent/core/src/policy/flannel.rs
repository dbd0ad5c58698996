//! Parsing of flannel's files: `subnet.env`, which flannel writes when it gets a lease, and
//! `net-conf.json`, its configuration.
//!
//! Keys: `WriteSubnetFile()` in flannel's `pkg/subnet/subnet.go`, `Config` in
//! `pkg/subnet/config.go`, `RegisterNetwork()` in `pkg/backend/{vxlan,wireguard,ipip}`.

use std::ops::Range;

use ipnet::IpNet;
use serde::Deserialize;

use crate::net::addr::{self, AddressError};

/// Contents of one of the two files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flannel {
    /// Addresses of all pods of all nodes, with their position.
    pub networks: Vec<(IpNet, Range<usize>)>,
    /// Addresses of this node's pods, with their position.
    pub node: Vec<(IpNet, Range<usize>)>,
    /// `Backend.Type`, with its position; only `net-conf.json` has it.
    pub kind: Option<(String, Range<usize>)>,
    /// `Backend.DirectRouting`, whether flannel routes between nodes on one LAN without the tunnel,
    /// with the position of the key.
    pub direct: Option<(bool, Range<usize>)>,
    /// Other keys of `Backend`; only `net-conf.json` has them.
    pub backend: FlannelBackend,
}

/// Ports and names of the tunnel from `Backend` of `net-conf.json`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlannelBackend {
    /// UDP port of VXLAN (`Port`).
    pub port: Option<u16>,
    /// VXLAN network identifier (`VNI`), part of the names of the VXLAN devices.
    pub vni: Option<u32>,
    /// UDP port of WireGuard for IPv4, or for both families (`ListenPort`).
    pub listen: Option<u16>,
    /// UDP port of WireGuard for IPv6 (`ListenPortV6`).
    pub listen_v6: Option<u16>,
    /// Whether one WireGuard device carries both families (`Mode` is set, and not to `separate`).
    pub one_device: bool,
}

/// Error in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Position; `None` for the whole file.
    pub span: Option<Range<usize>>,
    /// Message.
    pub message: String,
    /// Suggested fix.
    pub help: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetConf {
    #[serde(rename = "EnableIPv4")]
    enable_v4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    enable_v6: Option<bool>,
    network: Option<String>,
    #[serde(rename = "IPv6Network")]
    network_v6: Option<String>,
    backend: Option<BackendConf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BackendConf {
    #[serde(rename = "Type")]
    kind: Option<String>,
    port: Option<u16>,
    #[serde(rename = "VNI")]
    vni: Option<u32>,
    direct_routing: Option<bool>,
    listen_port: Option<u16>,
    #[serde(rename = "ListenPortV6")]
    listen_port_v6: Option<u16>,
    mode: Option<String>,
}

/// Parses either file.
///
/// # Errors
/// All errors in the file.
pub fn read(text: &str) -> Result<Flannel, Vec<Wrong>> {
    let Parsed {
        flannel,
        mut wrong,
        unset,
    } = match text.trim_start().starts_with('{') {
        true => net_conf(text),
        false => subnet_env(text),
    };
    if wrong.is_empty() && flannel.networks.is_empty() {
        wrong = unset;
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    if flannel.networks.is_empty() {
        return Err(vec![Wrong {
            span: None,
            message: "it contains no pod network (FLANNEL_NETWORK or FLANNEL_IPV6_NETWORK of \
                      subnet.env, Network or IPv6Network of net-conf.json)"
                .into(),
            help: Some("use flannel's subnet.env or net-conf.json".into()),
        }]);
    }
    let nets: Vec<IpNet> = flannel.networks.iter().map(|(net, _)| *net).collect();
    if let Err(errors) = addr::check_pods(&nets) {
        let at = |index: usize| flannel.networks.get(index).map(|(_, span)| span.clone());
        let wrong = errors.into_iter().map(|(index, err)| Wrong {
            span: at(index),
            ..err.into()
        });
        return Err(wrong.collect());
    }
    Ok(flannel)
}

/// Partially parsed file.
#[derive(Default)]
pub(crate) struct Parsed {
    flannel: Flannel,
    wrong: Vec<Wrong>,
    /// Errors of unset networks; they count only if no network is set.
    unset: Vec<Wrong>,
}

impl Parsed {
    fn network(&mut self, value: &str, span: Range<usize>) {
        let every = |net: &IpNet| net.prefix_len() == 0;
        match addr::parse_source(value) {
            // flannel and k3s write an unset network as 0.0.0.0/0 or ::/0, the zero value of its
            // type.
            Ok(net) if every(&net) => {
                let errors = addr::check_pods(&[net]).err().unwrap_or_default();
                let errors = errors.into_iter().map(|(_, err)| err.into());
                self.unset.extend(errors.map(|wrong: Wrong| Wrong {
                    span: Some(span.clone()),
                    ..wrong
                }));
            }
            Ok(net) => self.flannel.networks.push((net, span)),
            Err(err) => {
                let wrong = Wrong {
                    span: Some(span),
                    ..err.into()
                };
                match value.is_empty() {
                    true => self.unset.push(wrong),
                    false => self.wrong.push(wrong),
                }
            }
        }
    }
}

impl From<AddressError> for Wrong {
    fn from(err: AddressError) -> Self {
        Self {
            span: None,
            message: err.message,
            help: err.help,
        }
    }
}

fn subnet_env(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if let Some((key, value)) = line.trim_end().split_once('=') {
            let start = at + key.len() + 1;
            let values = value.split(',').scan(start, |start, each| {
                let from = *start;
                *start += each.len() + 1;
                let quoted = each.len() - each.trim_start_matches('"').len();
                let inner = each.trim_matches('"');
                Some((inner, from + quoted..from + quoted + inner.len()))
            });
            match key.trim_start() {
                "FLANNEL_NETWORK" | "FLANNEL_IPV6_NETWORK" => {
                    for (value, span) in values {
                        parsed.network(value, span);
                    }
                }
                // This is the address of the bridge with a prefix length, so it has host bits.
                "FLANNEL_SUBNET" | "FLANNEL_IPV6_SUBNET" => {
                    let values = values.filter_map(|(value, span)| {
                        Some((value.parse::<IpNet>().ok()?.trunc(), span))
                    });
                    // An unset network has an unset subnet.
                    parsed
                        .flannel
                        .node
                        .extend(values.filter(|(net, _)| net.prefix_len() > 0));
                }
                _ => {}
            }
        }
        at += line.len();
    }
    parsed
}

fn net_conf(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    let conf: NetConf = match serde_json::from_str(text) {
        Ok(conf) => conf,
        Err(err) => {
            let line = text.lines().take(err.line().saturating_sub(1));
            let start: usize = line.map(|line| line.len() + 1).sum::<usize>();
            let at = (start + err.column().saturating_sub(1)).min(text.len());
            let at = (0..=at)
                .rev()
                .find(|at| text.is_char_boundary(*at))
                .unwrap_or(0);
            let wrong = Wrong {
                span: Some(at..at),
                message: format!("invalid net-conf.json: {err}"),
                help: None,
            };
            parsed.wrong.push(wrong);
            return parsed;
        }
    };
    let place = |value: &str| {
        let at = text.find(&format!("\"{value}\"")).map_or(0, |at| at + 1);
        at..at + value.len()
    };
    // Defaults of flannel: IPv4 is enabled, IPv6 is disabled.
    let v4 = conf.network.filter(|_| conf.enable_v4 != Some(false));
    let v6 = conf.network_v6.filter(|_| conf.enable_v6 == Some(true));
    for value in [v4, v6].into_iter().flatten() {
        parsed.network(&value, place(&value));
    }
    if let Some(conf) = conf.backend {
        let port = |port: Option<u16>| port.filter(|port| *port > 0);
        let key = |name: &str| {
            let quoted = format!("\"{name}\"");
            let at = text.find(&quoted).unwrap_or_default();
            at..at + quoted.len()
        };
        parsed.flannel.kind = conf.kind.map(|kind| (kind.clone(), place(&kind)));
        parsed.flannel.direct = conf
            .direct_routing
            .map(|direct| (direct, key("DirectRouting")));
        parsed.flannel.backend = FlannelBackend {
            port: port(conf.port),
            vni: conf.vni,
            listen: port(conf.listen_port),
            listen_v6: port(conf.listen_port_v6),
            one_device: conf.mode.is_some_and(|mode| mode != "separate"),
        };
    }
    parsed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(text: &str) -> Vec<String> {
        let flannel = read(text).expect("it is right");
        for (net, span) in &flannel.networks {
            assert_eq!(&text[span.clone()], net.to_string());
        }
        flannel
            .networks
            .iter()
            .map(|(net, _)| net.to_string())
            .collect()
    }

    #[test]
    fn both_of_its_files_are_read() {
        let env = "FLANNEL_NETWORK=10.244.0.0/16,10.245.0.0/16\n\
                   FLANNEL_SUBNET=10.244.1.1/24\n\
                   FLANNEL_IPV6_NETWORK=\"2001:db8:244::/56\"\n\
                   FLANNEL_MTU=1450\n";
        assert_eq!(
            networks(env),
            ["10.244.0.0/16", "10.245.0.0/16", "2001:db8:244::/56"]
        );
        let node = read(env).expect("it is right").node;
        assert_eq!(node[0].0.to_string(), "10.244.1.0/24");

        let conf = r#"{ "Network": "10.244.0.0/16", "IPv6Network": "2001:db8:244::/56",
 "Backend": {"Type": "vxlan", "Port": 4789, "VNI": 7} }"#;
        assert_eq!(networks(conf), ["10.244.0.0/16"]);
        let flannel = read(conf).expect("it is right");
        assert_eq!(flannel.backend.port, Some(4789));
        assert_eq!(flannel.backend.vni, Some(7));
        assert_eq!(flannel.kind.map(|(kind, _)| kind).as_deref(), Some("vxlan"));
        let both = conf.replacen('{', "{\"EnableIPv6\": true,", 1);
        assert_eq!(networks(&both), ["10.244.0.0/16", "2001:db8:244::/56"]);
        let six = both.replacen('{', "{\"EnableIPv4\": false,", 1);
        assert_eq!(networks(&six), ["2001:db8:244::/56"]);
        let wireguard = "{\"Network\": \"10.244.0.0/16\", \"Backend\": {\"Type\": \"wireguard\", \
                         \"ListenPort\": 51830, \"ListenPortV6\": 51831, \"Mode\": \"auto\"}}";
        let want = FlannelBackend {
            listen: Some(51830),
            listen_v6: Some(51831),
            one_device: true,
            ..FlannelBackend::default()
        };
        assert_eq!(read(wireguard).map(|flannel| flannel.backend), Ok(want));
        let separate = wireguard.replace("auto", "separate");
        let flannel = read(&separate).expect("it is right");
        assert!(!flannel.backend.one_device);
        let direct = "{\"Network\": \"10.244.0.0/16\", \"Backend\": {\"Type\": \"ipip\", \
                      \"DirectRouting\": true}}";
        let flannel = read(direct).expect("it is right");
        let (direct_routing, span) = flannel.direct.expect("the key is there");
        assert!(direct_routing);
        assert_eq!(&direct[span], "\"DirectRouting\"");
    }

    #[test]
    fn a_network_that_is_not_set_is_ignored_beside_the_other_family() {
        for text in [
            "FLANNEL_NETWORK=\nFLANNEL_SUBNET=\nFLANNEL_IPV6_NETWORK=2001:db8:42::/56\n",
            "FLANNEL_NETWORK=0.0.0.0/0\nFLANNEL_SUBNET=0.0.0.1/0\nFLANNEL_IPV6_NETWORK=2001:db8:42::/56\n",
            "{\"EnableIPv6\": true, \"Network\": \"\", \"IPv6Network\": \"2001:db8:42::/56\"}",
            // k3s for a cluster of IPv6 only (`createFlannelConf()` in its
            // `pkg/agent/flannel/setup.go`).
            "{\"EnableIPv4\": false, \"EnableIPv6\": true, \"Network\": \"0.0.0.0/0\", \
             \"IPv6Network\": \"2001:db8:42::/56\"}",
        ] {
            assert_eq!(networks(text), ["2001:db8:42::/56"], "{text}");
            let flannel = read(text).expect(text);
            assert!(flannel.node.is_empty(), "{text}");
        }
        let v4 = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_IPV6_NETWORK=::/0\n";
        assert_eq!(networks(v4), ["10.244.0.0/16"]);
    }

    #[test]
    fn what_is_neither_is_refused_with_its_place() {
        for (text, at, wanted) in [
            ("", None, "no pod network"),
            ("{}", None, "no pod network"),
            ("FLANNEL_MTU=1450\n", None, "no pod network"),
            (
                "A=1\nFLANNEL_NETWORK=10.244.0.1/16\n",
                Some(20),
                "10.244.0.1/16",
            ),
            ("FLANNEL_NETWORK=0.0.0.0/0\n", Some(16), "every address"),
            ("FLANNEL_NETWORK=\n", Some(16), "not an address"),
            (
                "FLANNEL_NETWORK=0.0.0.0/1,128.0.0.0/1\n",
                Some(16),
                "0.0.0.0/1 cannot be a pod network",
            ),
            (
                "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_IPV6_NETWORK=2000::/3\n",
                Some(51),
                "2000::/3 is too large",
            ),
            (
                "{\"Network\": \"10.244.0.0/16\", \"Backend\": {\"VNI\": -1}}",
                Some(49),
                "net-conf.json",
            ),
            ("{\"Network\": \"10.244.0.0\"", Some(23), "net-conf.json"),
            (
                "{\n\"Network\": \"10.244.0.1/16\"}",
                Some(14),
                "10.244.0.1/16",
            ),
            ("{\"Network\": 7}", Some(12), "net-conf.json"),
            (
                "{\"Network\": \"10.244.0.0/16\", \"Backend\": {\"Port\": 70000}}",
                Some(53),
                "70000",
            ),
        ] {
            let wrong = read(text).expect_err(text);
            assert!(wrong[0].message.contains(wanted), "{text}: {wrong:?}");
            assert_eq!(
                wrong[0].span.as_ref().map(|span| span.start),
                at,
                "{text}: {wrong:?}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[{A-Z_=\":,0-9./ \n}é]{0,80}", rest in ".{0,20}") {
            let _ = read(&text);
            let _ = read(&format!("{{\"Network\": \"{rest}\""));
            let _ = read(&format!("FLANNEL_NETWORK={rest}"));
        }
    }
}
