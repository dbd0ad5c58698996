//! Effect of rules of nf_tables and iptables-legacy on every packet.

use std::collections::BTreeMap;

use peerwall_proto::iptables::{self as text, Save};
use peerwall_proto::nf_tables::expr::{
    Expr, Immediate, Meta, NFT_GOTO, NFT_JUMP, NFT_RETURN, Objref, Verdict,
};
use peerwall_proto::nf_tables::{NF_ACCEPT, NF_DROP};

use super::{Does, Engine, ForeignChain, ForeignRule, ForeignTable};
use crate::net::packet::Hook;

/// Targets of iptables after which the packet continues (`man iptables-extensions`).
const GO_ON: [&str; 14] = [
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "CONNMARK",
    "CONNSECMARK",
    "CT",
    "DSCP",
    "LED",
    "LOG",
    "MARK",
    "NFLOG",
    "SECMARK",
    "TCPMSS",
    "TRACE",
];
/// Tables of iptables that filter packets to this host and through it.
pub const TABLES: [&str; 3] = ["mangle", "filter", "security"];

/// Effects of the rules of a table, by chain.
pub type ForeignRules = BTreeMap<String, Vec<ForeignRule>>;

/// Returns the effect of a rule of nf_tables. Unknown expressions count as conditions.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "new expressions count as conditions"
)]
pub fn of_expressions(exprs: &[Expr]) -> Does {
    for expr in exprs {
        match expr {
            Expr::Immediate(immediate) => match verdict(immediate) {
                Some(verdict) => return of_verdict(verdict),
                None => continue,
            },
            Expr::Reject(_) => return Does::Drop,
            Expr::Target(target) => match target.target_name.as_deref() {
                Some("REJECT" | "DROP") => return Does::Drop,
                Some(name) if GO_ON.contains(&name) => continue,
                _ => return Does::Nothing,
            },
            _ if goes_on(expr) => {}
            _ => return Does::Nothing,
        }
    }
    Does::Nothing
}

/// Returns whether an expression has no influence on the verdict: it counts, logs or marks.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "new expressions count as conditions"
)]
fn goes_on(expr: &Expr) -> bool {
    match expr {
        Expr::Match(found) => found.match_name.as_deref() == Some("comment"),
        Expr::Meta(Meta { sreg, .. }) => sreg.is_some(),
        Expr::Objref(Objref { set_name, .. }) => set_name.is_none(),
        other => matches!(other.name(), "counter" | "log" | "last" | "notrack"),
    }
}

fn verdict(immediate: &Immediate) -> Option<&Verdict> {
    Some(&immediate.data.as_ref()?.0.verdict.as_ref()?.0)
}

fn of_verdict(verdict: &Verdict) -> Does {
    let chain = || verdict.chain.clone().unwrap_or_default();
    match verdict.code {
        Some(NF_DROP) => Does::Drop,
        Some(NF_ACCEPT) => Does::Accept,
        Some(code) => match code.cast_signed() {
            NFT_JUMP => Does::Jump(chain()),
            NFT_GOTO => Does::Goto(chain()),
            NFT_RETURN => Does::Return,
            _ => Does::Nothing,
        },
        None => Does::Nothing,
    }
}

/// Returns the filtering tables in the output of iptables-legacy-save or ip6tables-legacy-save.
pub fn of_save(family: &'static str, save: &Save) -> Vec<(ForeignTable, ForeignRules)> {
    let tables = save.tables.iter();
    tables
        .filter(|table| TABLES.contains(&table.name.as_str()))
        .map(|table| of_table(family, table))
        .collect()
}

fn of_table(family: &'static str, table: &text::Table) -> (ForeignTable, ForeignRules) {
    let chains: Vec<ForeignChain> = table.chains.iter().map(chain).collect();
    let mut rules = ForeignRules::new();
    for rule in &table.rules {
        let does = of_words(&rule.words, &chains);
        let list = rules.entry(rule.chain.clone()).or_default();
        list.push(ForeignRule { handle: None, does });
    }
    let table = ForeignTable {
        engine: Engine::IptablesLegacy,
        family,
        name: table.name.clone(),
        chains,
    };
    (table, rules)
}

fn chain(chain: &text::Chain) -> ForeignChain {
    ForeignChain {
        name: chain.name.clone(),
        hook: match (chain.name.as_str(), &chain.policy) {
            ("INPUT", Some(_)) => Some(Hook::Input),
            ("FORWARD", Some(_)) => Some(Hook::Forward),
            _ => None,
        },
        drops: chain.policy.as_deref() == Some("DROP"),
    }
}

/// Returns the effect of the words after `-A CHAIN`: conditions, then the target with its options.
fn of_words(words: &[String], chains: &[ForeignChain]) -> Does {
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match (word, words.next().unwrap_or_default()) {
            ("-m" | "--match", "comment") | ("--comment", _) => {}
            ("-j" | "--jump", "DROP" | "REJECT") => return Does::Drop,
            ("-j" | "--jump", "ACCEPT") => return Does::Accept,
            ("-j" | "--jump", "RETURN") => return Does::Return,
            ("-j" | "--jump", to) if chains.iter().any(|chain| chain.name == to) => {
                return Does::Jump(to.to_owned());
            }
            ("-g" | "--goto", to) => return Does::Goto(to.to_owned()),
            _ => return Does::Nothing,
        }
    }
    Does::Nothing
}

#[cfg(test)]
mod tests {
    use peerwall_proto::nf_tables::Nested;
    use peerwall_proto::nf_tables::expr::{Cmp, CounterExpr, Data, Match, Reject, Target};

    use super::*;

    fn immediate(code: u32, chain: Option<&str>) -> Expr {
        Expr::Immediate(Immediate {
            dreg: Some(0),
            data: Some(Nested(Data {
                verdict: Some(Nested(Verdict {
                    code: Some(code),
                    chain: chain.map(str::to_owned),
                    ..Verdict::default()
                })),
                ..Data::default()
            })),
            ..Immediate::default()
        })
    }

    fn of_match(name: &str) -> Expr {
        Expr::Match(Match {
            match_name: Some(name.into()),
            ..Match::default()
        })
    }

    fn target(name: &str) -> Expr {
        Expr::Target(Target {
            target_name: Some(name.into()),
            ..Target::default()
        })
    }

    #[test]
    fn a_rule_of_nf_tables_with_any_condition_does_nothing_to_every_packet() {
        let counter = || Expr::CounterExpr(CounterExpr::default());
        let jump = NFT_JUMP.cast_unsigned();
        for (name, exprs, want) in [
            ("drop", vec![immediate(NF_DROP, None)], Does::Drop),
            (
                "counter drop",
                vec![counter(), immediate(NF_DROP, None)],
                Does::Drop,
            ),
            ("reject", vec![Expr::Reject(Reject::default())], Does::Drop),
            ("-j REJECT", vec![counter(), target("REJECT")], Does::Drop),
            (
                "-j LOG, drop",
                vec![target("LOG"), immediate(NF_DROP, None)],
                Does::Drop,
            ),
            (
                "a comment",
                vec![of_match("comment"), immediate(NF_DROP, None)],
                Does::Drop,
            ),
            (
                "-m conntrack",
                vec![of_match("conntrack"), immediate(NF_DROP, None)],
                Does::Nothing,
            ),
            (
                "a comparison",
                vec![Expr::Cmp(Cmp::default()), immediate(NF_DROP, None)],
                Does::Nothing,
            ),
            ("an unknown target", vec![target("TARPIT")], Does::Nothing),
            ("accept", vec![immediate(NF_ACCEPT, None)], Does::Accept),
            (
                "jump",
                vec![immediate(jump, Some("a"))],
                Does::Jump("a".into()),
            ),
            ("only counts", vec![counter()], Does::Nothing),
            (
                "meta load",
                vec![Expr::Meta(Meta::default()), immediate(NF_DROP, None)],
                Does::Nothing,
            ),
            (
                "unknown",
                vec![
                    Expr::Other {
                        name: "new".into(),
                        data: None,
                    },
                    immediate(NF_DROP, None),
                ],
                Does::Nothing,
            ),
        ] {
            assert_eq!(of_expressions(&exprs), want, "{name}");
        }
    }

    #[test]
    fn iptables_save_is_read() {
        let saved = text::parse(
            "*nat\n\
             :PREROUTING ACCEPT [0:0]\n\
             COMMIT\n\
             *filter\n\
             :INPUT DROP [1:2]\n\
             :FORWARD ACCEPT [0:0]\n\
             :OUTPUT DROP [0:0]\n\
             :mine - [0:0]\n\
             -A INPUT -i lo -j ACCEPT\n\
             -A INPUT -j LOG --log-prefix x\n\
             -A INPUT -m comment --comment \"all the rest\" -j mine\n\
             -A FORWARD -j REJECT --reject-with icmp-port-unreachable\n\
             -A mine -g other\n\
             -A mine -p tcp -j DROP\n\
             COMMIT\n",
        )
        .unwrap();
        let found = of_save("ip", &saved);
        let [(table, rules)] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!((table.name.as_str(), table.family), ("filter", "ip"));
        let bases: Vec<(&str, bool)> = table
            .chains
            .iter()
            .filter(|chain| chain.hook.is_some())
            .map(|chain| (chain.name.as_str(), chain.drops))
            .collect();
        assert_eq!(bases, [("INPUT", true), ("FORWARD", false)]);
        let does = |chain: &str| -> Vec<Does> {
            rules[chain].iter().map(|rule| rule.does.clone()).collect()
        };
        assert_eq!(
            does("INPUT"),
            [Does::Nothing, Does::Nothing, Does::Jump("mine".into())]
        );
        assert_eq!(does("FORWARD"), [Does::Drop]);
        assert_eq!(does("mine"), [Does::Goto("other".into()), Does::Nothing]);
    }
}
