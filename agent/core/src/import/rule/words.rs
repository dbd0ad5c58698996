//! Parses the words of a rule into conditions and a target.

use ipnet::IpNet;

use super::targets::{CONTINUE, OTHER};
use super::values::{WordError, address, icmp_name, port_range, protocol, tcp_flags};
use super::{AddressKind, At, Condition, ImportedRule, ImportedSets, Interval, Test, Verb};
use crate::net::addr::{self, Family};
use crate::net::interface::InterfacePattern;
use crate::net::packet::CtState;

/// Parses the words of one rule.
pub(super) fn read(
    words: &[String],
    family: Family,
    at: At,
    sets: &ImportedSets,
) -> Result<ImportedRule, WordError> {
    let mut reader = Reader {
        words,
        next: 0,
        family,
        sets,
        module: String::new(),
        conditions: Vec::new(),
        comment: None,
        target: None,
    };
    reader.all()?;
    let target = reader.target.take();
    Ok(ImportedRule {
        at,
        conditions: reader.conditions,
        target: target.unwrap_or_else(|| Verb::Continue("count".into())),
        comment: reader.comment,
    })
}

struct Reader<'w> {
    words: &'w [String],
    next: usize,
    family: Family,
    sets: &'w ImportedSets,
    /// Module of the last `-m`.
    module: String,
    conditions: Vec<Condition>,
    comment: Option<String>,
    target: Option<Verb>,
}

impl Reader<'_> {
    fn word(&mut self) -> Option<String> {
        let word = self.words.get(self.next).cloned();
        self.next += 1;
        word
    }

    fn value(&mut self, option: &str) -> Result<String, WordError> {
        self.word().ok_or_else(|| {
            (
                format!("`{option}` needs a value"),
                "add it; the line may be truncated",
            )
        })
    }

    fn all(&mut self) -> Result<(), WordError> {
        let mut negated = false;
        while let Some(word) = self.word() {
            if word == "!" {
                negated = true;
                continue;
            }
            // Syntax of older iptables: `-s ! 10.0.0.0/8`.
            if self.words.get(self.next).is_some_and(|next| next == "!") {
                self.next += 1;
                negated = true;
            }
            if self.target.is_some() {
                self.target_option(&word)?;
            } else {
                self.option(&word, negated)?;
            }
            negated = false;
        }
        Ok(())
    }

    fn push(&mut self, negated: bool, test: Test) {
        self.conditions.push(Condition { negated, test });
    }

    fn option(&mut self, word: &str, negated: bool) -> Result<(), WordError> {
        let test = match word {
            "-s" | "--source" | "--src" => Test::Source(self.addresses(word)?),
            "-d" | "--destination" | "--dst" => Test::Destination(self.addresses(word)?),
            "-i" | "--in-interface" => match self.interface(word)? {
                Some(pattern) => Test::In(vec![pattern]),
                None => Test::Always(true),
            },
            "-o" | "--out-interface" => match self.interface(word)? {
                Some(pattern) => Test::Out(vec![pattern]),
                None => Test::Always(true),
            },
            "-p" | "--protocol" | "--proto" => {
                let name = self.value(word)?;
                self.module = name.clone();
                match protocol(&name)? {
                    Some(number) => Test::Protocol(vec![number]),
                    None => Test::Always(true),
                }
            }
            // Evaluated packets are never later fragments.
            "-f" | "--fragment" => Test::Always(false),
            "-m" | "--match" => {
                self.module = self.value(word)?;
                return self.whole_module(negated);
            }
            "-j" | "--jump" => return self.target(word, false),
            "-g" | "--goto" => return self.target(word, true),
            "-c" | "--set-counters" => {
                let _ = (self.value(word)?, self.value(word)?);
                return Ok(());
            }
            other => return self.module_option(other, negated),
        };
        self.push(negated, test);
        Ok(())
    }

    /// Parses modules that match without options.
    fn whole_module(&mut self, negated: bool) -> Result<(), WordError> {
        let bare = self
            .words
            .get(self.next)
            .is_none_or(|next| matches!(next.as_str(), "-m" | "-j" | "-g" | "--match" | "--jump"));
        match self.module.as_str() {
            "socket" | "rpfilter" | "eui64" if bare => {
                let text = format!("-m {}", self.module);
                self.push(negated, Test::Unknown(text));
            }
            // The default is three per hour with a burst of five.
            "limit" if bare => self.push(negated, Test::Rate(true, "-m limit".into())),
            _ => {}
        }
        Ok(())
    }

    fn module_option(&mut self, word: &str, negated: bool) -> Result<(), WordError> {
        let test = match word {
            "--sport" | "--source-port" => Test::SourcePorts(vec![self.port(word)?]),
            "--dport" | "--destination-port" => Test::DestinationPorts(vec![self.port(word)?]),
            "--sports" | "--source-ports" => Test::SourcePorts(self.ports(word)?),
            "--dports" | "--destination-ports" => Test::DestinationPorts(self.ports(word)?),
            "--ports" => Test::EitherPort(self.ports(word)?),
            "--syn" => Test::TcpFlags(tcp_flags("FIN,SYN,RST,ACK")?, tcp_flags("SYN")?),
            "--tcp-flags" => {
                let mask = tcp_flags(&self.value(word)?)?;
                Test::TcpFlags(mask, tcp_flags(&self.value(word)?)?)
            }
            "--state" | "--ctstate" => self.states(word)?,
            "--ctorigdstport" => {
                let (first, last) = self.port(word)?;
                Test::Dialled(first, last)
            }
            "--ctproto" => match protocol(&self.value(word)?)? {
                Some(number) => Test::Protocol(vec![number]),
                None => Test::Always(true),
            },
            "--icmp-type" | "--icmpv6-type" => self.icmp(word)?,
            "--src-range" => Test::Source(vec![self.range(word)?]),
            "--dst-range" => Test::Destination(vec![self.range(word)?]),
            "--match-set" => self.set(word)?,
            "--comment" => {
                let text = self.value(word)?;
                self.comment = Some(text);
                return Ok(());
            }
            "--hl-eq" | "--ttl-eq" => {
                let limit = self.number(word)?;
                Test::HopLimit(limit, limit)
            }
            "--hl-lt" | "--ttl-lt" => Test::HopLimit(0, self.number(word)?.saturating_sub(1)),
            "--hl-gt" | "--ttl-gt" => Test::HopLimit(self.number(word)?.saturating_add(1), u8::MAX),
            "--dst-type" => match self.value(word)?.as_str() {
                "LOCAL" => Test::To(AddressKind::Local),
                "BROADCAST" => Test::To(AddressKind::Broadcast),
                "MULTICAST" => Test::To(AddressKind::Multicast),
                other => Test::Unknown(format!("--dst-type {other}")),
            },
            _ => return self.rate_or_unknown(word, negated),
        };
        self.push(negated, test);
        Ok(())
    }

    /// Parses options of `limit`, `hashlimit`, `connlimit` and `recent`, which depend on earlier
    /// packets.
    fn rate_or_unknown(&mut self, word: &str, negated: bool) -> Result<(), WordError> {
        let text = self.gather(word);
        let module = self.module.clone();
        let test = match (module.as_str(), word) {
            ("limit", "--limit") => Test::Rate(true, text),
            ("limit", "--limit-burst") => match self.rate() {
                Some(_) => return Ok(()),
                None => Test::Rate(true, text),
            },
            ("hashlimit", "--hashlimit" | "--hashlimit-upto")
            | ("connlimit", "--connlimit-upto") => Test::Rate(true, text),
            ("hashlimit", "--hashlimit-above") | ("connlimit", "--connlimit-above") => {
                Test::Rate(false, text)
            }
            // Options for counting do not change the match.
            ("hashlimit", word) if word.starts_with("--hashlimit-") => return Ok(()),
            ("connlimit", "--connlimit-mask" | "--connlimit-saddr" | "--connlimit-daddr") => {
                return Ok(());
            }
            ("recent", "--name" | "--rsource" | "--rdest" | "--mask" | "--rttl" | "--reap") => {
                return Ok(());
            }
            ("recent", "--set") => Test::Always(true),
            ("recent", "--hitcount" | "--seconds") => match self.rate() {
                Some(all) => {
                    all.push(' ');
                    all.push_str(&text);
                    return Ok(());
                }
                None => Test::Rate(false, text),
            },
            ("recent", "--update" | "--rcheck" | "--remove") => Test::Rate(false, text),
            (module, _) if !module.is_empty() => Test::Unknown(format!("-m {module} {text}")),
            _ => Test::Unknown(text),
        };
        self.push(negated, test);
        Ok(())
    }

    /// Returns the words of the last rate, for appending.
    fn rate(&mut self) -> Option<&mut String> {
        match self.conditions.last_mut().map(|c| &mut c.test) {
            Some(Test::Rate(_, text)) => Some(text),
            _ => None,
        }
    }

    /// Collects a word and its likely values.
    fn gather(&mut self, word: &str) -> String {
        let mut text = word.to_owned();
        while let Some(next) = self.words.get(self.next)
            && !next.starts_with('-')
            && next != "!"
        {
            text.push(' ');
            text.push_str(next);
            self.next += 1;
        }
        text
    }

    fn addresses(&mut self, option: &str) -> Result<Vec<Interval>, WordError> {
        let value = self.value(option)?;
        value
            .split(',')
            .map(|each| address(each, self.family))
            .collect()
    }

    /// Parses an interface; `None` for `+`, which matches every interface.
    fn interface(&mut self, option: &str) -> Result<Option<InterfacePattern>, WordError> {
        let name = self.value(option)?;
        let (name, is_prefix) = match name.strip_suffix('+') {
            Some(prefix) => (prefix.to_owned(), true),
            None => (name, false),
        };
        if is_prefix && name.is_empty() {
            return Ok(None);
        }
        let text = if is_prefix { format!("{name}*") } else { name };
        InterfacePattern::parse(&text).map(Some).map_err(|err| {
            (
                err.0,
                "write it like `-i eth0`, or `-i eth+` for every interface with that prefix",
            )
        })
    }

    fn port(&mut self, option: &str) -> Result<(u16, u16), WordError> {
        port_range(&self.value(option)?)
    }

    fn ports(&mut self, option: &str) -> Result<Vec<(u16, u16)>, WordError> {
        self.value(option)?.split(',').map(port_range).collect()
    }

    fn number(&mut self, option: &str) -> Result<u8, WordError> {
        let value = self.value(option)?;
        value.parse().map_err(|err| {
            (
                format!("`{option} {value}`: {err}"),
                "write a number from 0 to 255",
            )
        })
    }

    fn range(&mut self, option: &str) -> Result<Interval, WordError> {
        let value = self.value(option)?;
        let (first, last) = value.split_once('-').unwrap_or((&value, &value));
        let (first, last) = (
            address(first, self.family)?.0,
            address(last, self.family)?.1,
        );
        match first <= last {
            true => Ok((first, last)),
            false => Err((
                format!("`{value}` ends before it starts"),
                "write it like 192.0.2.10-192.0.2.20",
            )),
        }
    }

    fn states(&mut self, option: &str) -> Result<Test, WordError> {
        let mut states = Vec::new();
        let mut dnat = false;
        for name in self.value(option)?.split(',') {
            states.push(match name {
                "NEW" => CtState::New,
                "ESTABLISHED" => CtState::Established,
                "RELATED" => CtState::Related,
                "INVALID" => CtState::Invalid,
                "UNTRACKED" => CtState::Untracked,
                "DNAT" => {
                    dnat = true;
                    continue;
                }
                "SNAT" => return Ok(Test::Unknown(format!("{option} SNAT"))),
                other => {
                    return Err((
                        format!("`{other}` is not a connection state"),
                        "the states are NEW, ESTABLISHED, RELATED, INVALID, UNTRACKED, DNAT and SNAT",
                    ));
                }
            });
        }
        Ok(Test::State { states, dnat })
    }

    fn icmp(&mut self, option: &str) -> Result<Test, WordError> {
        let value = self.value(option)?;
        if value == "any" || value == "255" {
            return Ok(Test::Always(true));
        }
        let (kind, code) = match value.split_once('/') {
            Some((kind, code)) => (kind, Some(code)),
            None => (value.as_str(), None),
        };
        let wrong = || {
            (
                format!("`{value}` is not an ICMP type"),
                "write it like 8, 3/4 or echo-request",
            )
        };
        if let Ok(kind) = kind.parse() {
            let code = match code {
                Some(code) => Some(code.parse().ok().ok_or_else(wrong)?),
                None => None,
            };
            return Ok(Test::Icmp(vec![(kind, code)]));
        }
        icmp_name(self.family, kind).ok_or_else(wrong)
    }

    fn set(&mut self, option: &str) -> Result<Test, WordError> {
        let name = self.value(option)?;
        let dimensions = self.value(option)?;
        let text = format!("-m set {option} {name} {dimensions}");
        let Some(nets) = self.sets.get(&name) else {
            return Ok(Test::Unknown(text));
        };
        let spans: Vec<Interval> = nets
            .iter()
            .filter(|net| Family::of(net.addr()) == self.family)
            .map(|net| addr::bounds(*net))
            .collect();
        Ok(match dimensions.as_str() {
            "src" => Test::Source(spans),
            "dst" => Test::Destination(spans),
            _ => Test::Unknown(text),
        })
    }

    fn target(&mut self, option: &str, goto: bool) -> Result<(), WordError> {
        let name = self.value(option)?;
        self.target = Some(match name.as_str() {
            "ACCEPT" => Verb::Accept,
            "DROP" => Verb::Drop,
            "REJECT" => Verb::Reject,
            "RETURN" => Verb::Return,
            "DNAT" | "REDIRECT" => Verb::Dnat(None, None),
            "MASQUERADE" => Verb::Masquerade,
            name if CONTINUE.contains(&name) => Verb::Continue(name.to_owned()),
            name if OTHER.contains(&name) => Verb::Unknown(name.to_owned()),
            name if goto => Verb::Goto(name.to_owned()),
            name => Verb::Jump(name.to_owned()),
        });
        Ok(())
    }

    /// Parses options after `-j`; matches may still follow.
    fn target_option(&mut self, word: &str) -> Result<(), WordError> {
        match (word, &mut self.target) {
            ("-m" | "--match", _) => {
                // iptables-save prints matches first; hand-written rules may have them here.
                let target = self.target.take();
                self.option(word, false)?;
                while let Some(next) = self.word() {
                    let negated = next == "!";
                    let next = if negated { self.value("!")? } else { next };
                    self.option(&next, negated)?;
                }
                self.target = target;
            }
            ("--to-destination", Some(Verb::Dnat(net, port))) => {
                let value = self.words.get(self.next).cloned().unwrap_or_default();
                self.next += 1;
                (*net, *port) = destination(&value);
            }
            ("--to-ports", Some(Verb::Dnat(_, port))) => {
                let value = self.words.get(self.next).cloned().unwrap_or_default();
                self.next += 1;
                *port = value.split('-').next().and_then(|p| p.parse().ok());
            }
            _ => {
                let text = self.gather(word);
                if let Some(Verb::Unknown(name) | Verb::Continue(name)) = &mut self.target {
                    name.push(' ');
                    name.push_str(&text);
                }
            }
        }
        Ok(())
    }
}

/// Parses `10.1.2.3:80`, `[2001:db8::1]:80` or `10.1.2.3`.
fn destination(text: &str) -> (Option<IpNet>, Option<u16>) {
    if let Ok(socket) = text.parse::<std::net::SocketAddr>() {
        return (Some(socket.ip().into()), Some(socket.port()));
    }
    let bare = text.trim_matches(['[', ']']);
    (bare.parse::<std::net::IpAddr>().ok().map(IpNet::from), None)
}
