//! What flannel says of its pod networks: `subnet.env`, which it writes when it has a lease, and
//! `net-conf.json`, which it is configured by.
//!
//! Keys: `WriteSubnetFile()` in flannel's `pkg/subnet/subnet.go`, `Config` in `pkg/subnet/config.go`.

use std::ops::Range;

use ipnet::IpNet;
use serde::Deserialize;

use crate::addr;

/// What one of its files says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flannel {
    /// Addresses of all pods, of all nodes, with where they stand.
    pub networks: Vec<(IpNet, Range<usize>)>,
    /// Addresses of this node's pods, with where they stand.
    pub node: Vec<(IpNet, Range<usize>)>,
    /// `Backend.Type`, with where it stands; only `net-conf.json` has it.
    pub backend: Option<(String, Range<usize>)>,
    /// The UDP port of the tunnel (`Backend.Port`, or `ListenPort` of WireGuard).
    pub port: Option<u16>,
}

/// Why a file cannot be used, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Bytes of the text; `None` for the whole.
    pub span: Option<Range<usize>>,
    /// One sentence.
    pub message: String,
    /// What would do.
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
    backend: Option<Backend>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Backend {
    #[serde(rename = "Type")]
    kind: Option<String>,
    port: Option<u16>,
    listen_port: Option<u16>,
}

/// Reads either file.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read(text: &str) -> Result<Flannel, Vec<Wrong>> {
    let (flannel, wrong) = match text.trim_start().starts_with('{') {
        true => net_conf(text),
        false => subnet_env(text),
    };
    if !wrong.is_empty() {
        return Err(wrong);
    }
    for (net, span) in &flannel.networks {
        if net.prefix_len() == 0 {
            return Err(vec![Wrong {
                span: Some(span.clone()),
                message: "an overlay cannot have every address".into(),
                help: Some("the pod network is like 10.244.0.0/16".into()),
            }]);
        }
    }
    match flannel.networks.is_empty() {
        true => Err(vec![Wrong {
            span: None,
            message: "it names no pod network (FLANNEL_NETWORK and FLANNEL_IPV6_NETWORK of subnet.env, Network and IPv6Network of net-conf.json)".into(),
            help: Some("is it flannel's subnet.env, or its net-conf.json?".into()),
        }]),
        false => Ok(flannel),
    }
}

fn subnet_env(text: &str) -> (Flannel, Vec<Wrong>) {
    let mut flannel = Flannel::default();
    let mut wrong = Vec::new();
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
                        network(value, span, &mut flannel, &mut wrong);
                    }
                }
                // With the address of the bridge in it, so it is no prefix as such.
                "FLANNEL_SUBNET" | "FLANNEL_IPV6_SUBNET" => {
                    flannel.node.extend(values.filter_map(|(value, span)| {
                        Some((value.parse::<IpNet>().ok()?.trunc(), span))
                    }));
                }
                _ => {}
            }
        }
        at += line.len();
    }
    (flannel, wrong)
}

fn net_conf(text: &str) -> (Flannel, Vec<Wrong>) {
    let mut flannel = Flannel::default();
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
                message: format!("it is not a net-conf.json: {err}"),
                help: None,
            };
            return (flannel, vec![wrong]);
        }
    };
    let place = |value: &str| {
        let at = text.find(&format!("\"{value}\"")).map_or(0, |at| at + 1);
        at..at + value.len()
    };
    let mut wrong = Vec::new();
    // As flannel has it: IPv4 unless it is switched off, IPv6 only if it is switched on.
    let v4 = conf.network.filter(|_| conf.enable_v4 != Some(false));
    let v6 = conf.network_v6.filter(|_| conf.enable_v6 == Some(true));
    for value in [v4, v6].into_iter().flatten() {
        network(&value, place(&value), &mut flannel, &mut wrong);
    }
    if let Some(backend) = conf.backend {
        flannel.port = backend
            .port
            .or(backend.listen_port)
            .filter(|port| *port > 0);
        flannel.backend = backend.kind.map(|kind| (kind.clone(), place(&kind)));
    }
    (flannel, wrong)
}

fn network(value: &str, span: Range<usize>, flannel: &mut Flannel, wrong: &mut Vec<Wrong>) {
    match addr::parse_source(value) {
        Ok(net) => flannel.networks.push((net, span)),
        Err(err) => wrong.push(Wrong {
            span: Some(span),
            message: err.message,
            help: err.help,
        }),
    }
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
        let env = "FLANNEL_NETWORK=10.244.0.0/16,10.245.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_IPV6_NETWORK=\"2001:db8:244::/56\"\nFLANNEL_MTU=1450\n";
        assert_eq!(
            networks(env),
            ["10.244.0.0/16", "10.245.0.0/16", "2001:db8:244::/56"]
        );
        let node = read(env).expect("it is right").node;
        assert_eq!(node[0].0.to_string(), "10.244.1.0/24");

        let conf = "{ \"Network\": \"10.244.0.0/16\", \"IPv6Network\": \"2001:db8:244::/56\",\n \"Backend\": {\"Type\": \"vxlan\", \"Port\": 4789, \"VNI\": 7} }";
        assert_eq!(networks(conf), ["10.244.0.0/16"]);
        let flannel = read(conf).expect("it is right");
        assert_eq!(flannel.port, Some(4789));
        assert_eq!(
            flannel.backend.map(|(kind, _)| kind).as_deref(),
            Some("vxlan")
        );
        let both = conf.replacen('{', "{\"EnableIPv6\": true,", 1);
        assert_eq!(networks(&both), ["10.244.0.0/16", "2001:db8:244::/56"]);
        let six = both.replacen('{', "{\"EnableIPv4\": false,", 1);
        assert_eq!(networks(&six), ["2001:db8:244::/56"]);
        let wireguard = "{\"Network\": \"10.244.0.0/16\", \"Backend\": {\"Type\": \"wireguard\", \"ListenPort\": 51830}}";
        assert_eq!(read(wireguard).map(|flannel| flannel.port), Ok(Some(51830)));
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
