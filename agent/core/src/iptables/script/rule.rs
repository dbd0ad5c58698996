//! A rule of the ruleset as iptables rules.

use super::{IptablesLimit, LOG_PREFIX_MAX_BYTES, ScriptWriter};
use crate::iptables::ipset;
use crate::net::addr::Family;
use crate::net::interface::InterfacePattern;
use crate::net::port::{self, PortRange};
use crate::net::protocol;
use crate::ruleset::render::{self, quoted};
use crate::ruleset::{Action, Element, IcmpKinds, LABEL_BIT, Match, Meter, Ports, Rule};

/// Slots of one multiport match; a range takes two (`XT_MULTI_PORTS`).
const MULTIPORT_SLOTS: usize = 15;

impl ScriptWriter<'_> {
    /// Writes one line for each combination of elements that nftables keeps in sets.
    pub(super) fn rule(
        &self,
        rule: &Rule,
        chain: &str,
        helper: usize,
    ) -> Result<Written, IptablesLimit> {
        let mut written = Written::default();
        let family = rule.matches.iter().find_map(Match::family);
        if family.is_some_and(|family| family != self.family) {
            return Ok(written);
        }
        let protocol = rule.matches.iter().find_map(Match::protocol);
        let negated = negated_interfaces(rule);
        let mut lines = vec![String::new()];
        for condition in &rule.matches {
            let choices = self.choices(condition, protocol, negated.len())?;
            lines = product(&lines, &choices);
        }
        let end = self.end(rule)?;
        if negated.len() < 2 {
            written.lines = lines.iter().map(|line| join(line, &end)).collect();
            return Ok(written);
        }
        // "None of these interfaces" becomes a chain that returns for each of them.
        let name = format!("{chain}-{helper}");
        let jump = format!("-j {name}");
        written.lines = lines.iter().map(|line| join(line, &jump)).collect();
        let mut inside: Vec<String> = negated
            .iter()
            .map(|pattern| format!("-i {} -j RETURN", interface(pattern)))
            .collect();
        inside.push(end);
        written.helper = Some((name, inside));
        Ok(written)
    }

    /// Returns the alternatives of a match as iptables words; empty if the match never applies.
    fn choices(
        &self,
        condition: &Match,
        protocol: Option<u8>,
        negated: usize,
    ) -> Result<Vec<String>, IptablesLimit> {
        let one = |text: String| Ok(vec![text]);
        match condition {
            Match::CtState(states) => one(format!(
                "-m conntrack --ctstate {}",
                states.names().join(",").to_ascii_uppercase()
            )),
            Match::Dnat => one("-m conntrack --ctstate DNAT".into()),
            Match::NotDnat => one("-m conntrack ! --ctstate DNAT".into()),
            Match::DialledHere => one(format!("-m connlabel --label {LABEL_BIT}")),
            Match::Local => one("-m addrtype --dst-type LOCAL".into()),
            Match::OutInterface(pattern) => one(format!("-o {}", interface(pattern))),
            Match::SourceMac(set) => Ok(self.elements(set, "-m mac --mac-source ", |set, each| {
                render::value(set.key, each)
            })),
            Match::SourceNet(net) => one(format!("-s {net}")),
            Match::DestinationIn { set, .. } if self.is_ipset(set) => {
                one(format!("-m set --match-set {} dst", ipset::name(set)))
            }
            Match::DestinationIn { set, .. } => {
                Ok(self.elements(set, "-d ", |set, each| render::value(set.key, each)))
            }
            Match::DialledAddress { set, .. } => Ok(self.elements(
                set,
                "-m conntrack --ctorigdst ",
                |set, each| render::value(set.key, each),
            )),
            Match::TcpSyn => one("-m tcp --tcp-flags FIN,SYN,RST,ACK SYN".into()),
            Match::Ttl(limit) => one(format!("-m ttl --ttl-eq {limit}")),
            Match::Loopback => one("-i lo".into()),
            Match::Interface { negated: true, .. } if negated > 1 => one(String::new()),
            Match::Interface { pattern, negated } => {
                let not = if *negated { "! " } else { "" };
                one(format!("{not}-i {}", interface(pattern)))
            }
            // The file is for one family.
            Match::Family(_) => one(String::new()),
            Match::Source { set, .. } if self.is_ipset(set) => {
                one(format!("-m set --match-set {} src", ipset::name(set)))
            }
            Match::Source { set, .. } => {
                Ok(self.elements(set, "-s ", |set, each| render::value(set.key, each)))
            }
            Match::Destination(net) => one(format!("-d {net}")),
            Match::Protocol(number) => one(format!("-p {}", protocol_name(*number))),
            Match::SourcePort(Ports::Range(range)) => one(format!(
                "-m {} --sport {}",
                protocol_module(protocol),
                colon(*range)
            )),
            Match::SourcePort(Ports::Set(set)) => Ok(multiport(&self.ranges(set), "--sports")),
            Match::DestinationPort(Ports::Range(range)) => one(format!(
                "-m {} --dport {}",
                protocol_module(protocol),
                colon(*range)
            )),
            Match::DestinationPort(Ports::Set(set)) => Ok(multiport(&self.ranges(set), "--dports")),
            Match::DialledPort(ports) => {
                let number = protocol.unwrap_or(0);
                let ranges = match ports {
                    Ports::Range(range) => vec![*range],
                    Ports::Set(set) => self.ranges(set),
                };
                let dialled = |range: &PortRange| {
                    format!(
                        "-m conntrack --ctproto {number} --ctorigdstport {}",
                        colon(*range)
                    )
                };
                Ok(ranges.iter().map(dialled).collect())
            }
            Match::Icmp(kinds) => self.icmp(kinds),
            Match::HopLimit(limit) => one(format!("-m hl --hl-eq {limit}")),
            Match::ReversePath { .. } => Err(IptablesLimit::ReversePath),
        }
    }

    fn is_ipset(&self, set: &str) -> bool {
        let set = self.ruleset.sets.get(set);
        set.zip(self.ipset_from)
            .is_some_and(|(set, from)| ipset::is_ipset(set, from))
    }

    fn elements(
        &self,
        set: &str,
        before: &str,
        text: impl Fn(&crate::ruleset::Set, &Element) -> String,
    ) -> Vec<String> {
        let Some(set) = self.ruleset.sets.get(set) else {
            return Vec::new();
        };
        set.elements
            .iter()
            .map(|each| format!("{before}{}", text(set, each)))
            .collect()
    }

    fn ranges(&self, set: &str) -> Vec<PortRange> {
        let set = self.ruleset.sets.get(set);
        let elements = set.map(|set| &*set.elements).unwrap_or_default();
        let narrow = |value: u128| u16::try_from(value).unwrap_or(u16::MAX);
        elements
            .iter()
            .map(|e| PortRange {
                first: narrow(e.first),
                last: narrow(e.last),
            })
            .collect()
    }

    fn icmp(&self, kinds: &IcmpKinds) -> Result<Vec<String>, IptablesLimit> {
        let before = match self.family {
            Family::V4 => "-m icmp --icmp-type ",
            Family::V6 => "-m icmp6 --icmpv6-type ",
        };
        let found = match kinds {
            IcmpKinds::One(kind) => vec![format!("{before}{kind}")],
            IcmpKinds::Set(set) => self.elements(set, before, |_, each| each.first.to_string()),
        };
        // In `icmp_match()` in net/netfilter/xt_tcpudp.c and earlier versions, 255 matches every
        // type.
        match found.iter().any(|text| text.ends_with(" 255")) {
            true => Err(IptablesLimit::IcmpType255),
            false => Ok(found),
        }
    }

    /// Writes the part of a rule after its matches.
    fn end(&self, rule: &Rule) -> Result<String, IptablesLimit> {
        let mut words = Vec::new();
        words.extend(rule.meter.as_ref().map(hashlimit));
        if rule.label {
            words.push(format!("-m connlabel --label {LABEL_BIT} --set"));
        }
        if let Some(rate) = rule.limit {
            let (unit, _) = rate.unit.describe();
            words.push(format!(
                "-m limit --limit {}/{unit} --limit-burst {}",
                rate.count, rate.burst
            ));
        }
        if let Some(comment) = rule.counter.as_ref().or(rule.comment.as_ref()) {
            words.push(format!("-m comment --comment {}", quoted(comment)));
        }
        if let Some(log) = &rule.log {
            if log.prefix.len() > LOG_PREFIX_MAX_BYTES {
                return Err(IptablesLimit::LogPrefix(log.prefix.clone()));
            }
            let prefix = quoted(&log.prefix);
            words.push(format!(
                "-j NFLOG --nflog-prefix {prefix} --nflog-group {}",
                log.group
            ));
        }
        words.extend(rule.action.as_ref().map(|action| self.action(action)));
        Ok(words.join(" "))
    }

    fn action(&self, action: &Action) -> String {
        match action {
            Action::Accept => "-j ACCEPT".into(),
            Action::Drop => "-j DROP".into(),
            Action::RejectTcpReset => "-j REJECT --reject-with tcp-reset".into(),
            Action::RejectAdminProhibited => match self.family {
                Family::V4 => "-j REJECT --reject-with icmp-admin-prohibited".into(),
                Family::V6 => "-j REJECT --reject-with icmp6-adm-prohibited".into(),
            },
            Action::Jump(chain) => format!("-j {}", self.name(chain)),
            Action::Goto(chain) => format!("-g {}", self.name(chain)),
        }
    }
}

/// Formats a rate limit for each source address. The kernel keeps the first rate of a name while
/// any rule uses it (`htable_find_get()` in net/netfilter/xt_hashlimit.c), so the rate is part of
/// the name.
fn hashlimit(meter: &Meter) -> String {
    let rate = meter.rate;
    let (unit, _) = rate.unit.describe();
    format!(
        "-m hashlimit --hashlimit-upto {0}/{unit} --hashlimit-burst {1} \
         --hashlimit-mode srcip --hashlimit-name {2}-{0}-{unit}-{1}",
        rate.count, rate.burst, meter.set
    )
}

/// A formatted rule.
#[derive(Default)]
pub(super) struct Written {
    pub(super) lines: Vec<String>,
    pub(super) helper: Option<(String, Vec<String>)>,
}

fn negated_interfaces(rule: &Rule) -> Vec<&InterfacePattern> {
    let mut found = Vec::new();
    for condition in &rule.matches {
        if let Match::Interface {
            pattern,
            negated: true,
        } = condition
        {
            found.push(pattern);
        }
    }
    found
}

fn product(lines: &[String], choices: &[String]) -> Vec<String> {
    let mut out = Vec::with_capacity(lines.len() * choices.len());
    for line in lines {
        out.extend(choices.iter().map(|choice| join(line, choice)));
    }
    out
}

fn join(a: &str, b: &str) -> String {
    match (a.is_empty(), b.is_empty()) {
        (true, _) => b.to_owned(),
        (_, true) => a.to_owned(),
        (false, false) => format!("{a} {b}"),
    }
}

fn interface(pattern: &InterfacePattern) -> String {
    match pattern {
        InterfacePattern::Exact(name) => name.clone(),
        InterfacePattern::Prefix(prefix) => format!("{prefix}+"),
    }
}

fn colon(range: PortRange) -> String {
    range.to_string().replace('-', ":")
}

/// Returns names only for protocols whose matches require them.
fn protocol_name(number: u8) -> String {
    protocol::with_matches(number).map_or_else(|| number.to_string(), str::to_owned)
}

fn protocol_module(protocol: Option<u8>) -> String {
    port::protocol_name(protocol.unwrap_or(port::TCP))
}

/// Distributes ports over a minimum of multiport matches.
fn multiport(ranges: &[PortRange], option: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut free = 0;
    for range in ranges {
        let slots = if range.first == range.last { 1 } else { 2 };
        match out.last_mut().filter(|_| slots <= free) {
            Some(list) => {
                list.push(',');
                list.push_str(&colon(*range));
            }
            None => {
                out.push(format!("-m multiport {option} {}", colon(*range)));
                free = MULTIPORT_SLOTS;
            }
        }
        free -= slots;
    }
    out
}
