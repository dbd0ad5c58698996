//! The evaluation of the kernel's instructions, against that of the ruleset they were made from.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::collections::BTreeSet;
use std::net::IpAddr;

use peerwall_core::generate::{packet, policy};
use peerwall_core::net::addr::Family;
use peerwall_core::net::packet::{Packet, Verdict};
use peerwall_core::nft::lower::lower;
use peerwall_core::nft::machine::{
    At, Choices, Frame, Host, KernelTable, KernelTables, RouteKind, Way, explore, treat,
};
use peerwall_core::nft::observed::Observed;
use peerwall_core::nft::plan::plan;
use peerwall_core::ruleset::Ruleset;
use peerwall_core::ruleset::compile::compile;
use peerwall_proto::netlink::message::Datagram;
use peerwall_proto::nf_tables::event;
use proptest::prelude::*;

/// The tables that a plan for an empty kernel makes.
fn tables(ruleset: &Ruleset) -> KernelTables {
    let plan = plan(ruleset, &Observed::default());
    let sent = lower(&plan, 0, std::time::Duration::ZERO)
        .unwrap()
        .commit(1, None);
    let mut tables = KernelTables::default();
    for raw in Datagram::new(&sent.bytes) {
        let message = raw.unwrap().nfnetlink().unwrap();
        if let Some(event) = event::decode(&message).unwrap() {
            tables.add(message.family, event);
        }
    }
    tables.complete();
    tables
}

/// The host that a packet describes.
struct Of<'p>(&'p Packet);

impl Host for Of<'_> {
    fn kind(&mut self, _: IpAddr) -> Option<RouteKind> {
        Some(match self.0.to_host {
            true => RouteKind::Local,
            false => RouteKind::Unicast,
        })
    }

    fn ways(&mut self, _: IpAddr) -> Vec<String> {
        let way = if self.0.reverse_path {
            &self.0.interface
        } else {
            "elsewhere"
        };
        vec![way.to_owned()]
    }

    fn index(&self, interface: &str) -> Option<u32> {
        Some(if interface == "lo" { 1 } else { 2 })
    }

    fn kind_of_interface(&self, _: &str) -> Option<u16> {
        Some(if self.0.mac.is_some() { 1 } else { 65534 })
    }

    fn redirect_address(&self, _: &str, _: Family) -> Option<IpAddr> {
        None
    }
}

fn verdict(table: &KernelTable, packet: &Packet, choices: &mut Choices) -> Verdict {
    let (mut host, mut assumed) = (Of(packet), BTreeSet::new());
    let mut way = Way {
        host: &mut host,
        choices,
        assumed: &mut assumed,
    };
    let mut frame = Frame::new(&packet.before_dnat());
    let early = At {
        bridge: None,
        has_out: false,
    };
    let first = treat(table, "prerouting", early, &mut frame, &mut way);
    if first.verdict != Verdict::Accept {
        return first.verdict;
    }
    if packet.dialled.is_some() {
        let port = Frame::new(packet).destination_port();
        frame.translate(Some(packet.destination), port);
    }
    frame.leave_by(packet.out.clone());
    let name = packet.hook.to_string();
    let late = At {
        bridge: None,
        has_out: name == "forward",
    };
    treat(table, &name, late, &mut frame, &mut way).verdict
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn instructions_decide_as_the_ruleset_does(
        policy in policy(),
        packets in prop::collection::vec(packet(), 16),
    ) {
        let ruleset = compile(&policy).0;
        let tables = tables(&ruleset);
        let table = tables.registered().next().unwrap();
        for mut packet in packets {
            // A translation to the same destination is none.
            let before = packet.before_dnat();
            if (before.destination, before.transport) == (packet.destination, packet.transport) {
                packet.dialled = None;
            }
            let found = explore(200, |choices| verdict(table, &packet, choices));
            let said: BTreeSet<String> =
                found.branches.iter().map(|(_, verdict)| verdict.to_string()).collect();
            let want = ruleset.eval(&packet).verdict.to_string();
            prop_assert!(said.contains(&want), "{packet:?}: {said:?}, not {want}");
            // Of a first packet with all its values, nothing is unknown.
            let is_whole = packet.mac.is_some() && packet.state == peerwall_core::net::packet::CtState::New;
            prop_assert!(!is_whole || said.len() == 1, "{packet:?}: {:?}", found.branches);
        }
    }
}

/// Tables that no kernel accepts, and rules of random bytes, end without a panic.
#[test]
fn nonsense_ends() {
    use peerwall_proto::netlink::attr::Attrs;
    use peerwall_proto::nf_tables::event::{Change, Event};
    use peerwall_proto::nf_tables::expr::{self, Bitwise, Data, Expr, Immediate, Payload};
    use peerwall_proto::nf_tables::{Attributes as _, Chain, Hook, Nested, Rule, Table};
    let table = || Some("t".to_owned());
    let jump = |to: &str| -> Expr {
        let verdict = expr::Verdict {
            code: Some((-3_i32).cast_unsigned()),
            chain: Some(to.to_owned()),
            ..expr::Verdict::default()
        };
        Immediate {
            dreg: Some(0),
            data: Some(Nested(Data {
                verdict: Some(Nested(verdict)),
                ..Data::default()
            })),
            ..Immediate::default()
        }
        .into()
    };
    let huge = Payload {
        dreg: Some(u32::MAX),
        base: Some(1),
        offset_bytes: Some(u32::MAX),
        len_bytes: Some(u32::MAX),
        ..Payload::default()
    };
    let wide = Bitwise {
        sreg: Some(1),
        dreg: Some(u32::MAX),
        len_bytes: Some(u32::MAX),
        ..Bitwise::default()
    };
    let mut tables = KernelTables::default();
    tables.add(
        1,
        Event::Table(
            Change::New,
            Table {
                name: table(),
                ..Table::default()
            },
        ),
    );
    let hook = Hook {
        hooknum: Some(1),
        priority: Some(0),
        ..Hook::default()
    };
    let chain = Chain {
        table: table(),
        name: Some("input".to_owned()),
        hook: Some(Nested(hook)),
        ..Chain::default()
    };
    tables.add(1, Event::Chain(Change::New, chain));
    // A loop, four times in each round.
    for _ in 0..4 {
        let exprs = vec![huge.clone().into(), wide.clone().into(), jump("input")];
        let rule = Rule {
            table: table(),
            chain: Some("input".to_owned()),
            exprs: Some(exprs),
            ..Rule::default()
        };
        tables.add(1, Event::Rule(Change::New, rule));
    }
    tables.complete();
    let address = "192.0.2.1".parse().unwrap();
    let transport = peerwall_core::net::packet::Transport::Other(47);
    let hook = peerwall_core::net::packet::Hook::Input;
    let packet = Packet::new(hook, "eth0", address, address, transport);
    let table = tables.registered().next().unwrap();
    assert_eq!(
        verdict(table, &packet, &mut Choices::default()),
        Verdict::Drop
    );
    assert!(Rule::decode(Attrs::new(&[0xff; 40])).is_err());
}
