//! Any contents of the table are read without panic, and a plan repairs them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peerwall_core::nft::lift::{Dump, Point, lift};
use peerwall_core::nft::observed::Observed;
use peerwall_core::nft::plan::plan;
use peerwall_core::ruleset::Ruleset;
use peerwall_proto::netlink::message::Datagram;
use peerwall_proto::nf_tables::event::{self, Event};

fuzz_target!(|bytes: &[u8]| {
    let mut dump = Dump::default();
    for raw in Datagram::new(bytes).flatten() {
        let Ok(Ok(Some(found))) = raw.nfnetlink().map(|message| event::decode(&message)) else {
            continue;
        };
        match found {
            Event::Table(_, table) => dump.table = table,
            Event::Chain(_, chain) => dump.chains.push(chain),
            Event::Rule(_, rule) => dump.rules.push(rule),
            Event::Set(_, set) => dump.sets.push(set),
            Event::Object(_, object) => dump.objects.push(object),
            Event::Elements(_, list) => {
                let points = list.elements.iter().flatten().map(Point::read).collect();
                dump.elements.insert(list.set.unwrap_or_default(), points);
            }
            Event::Generation(_) | Event::Other(_) => {}
        }
    }
    let seen = Observed {
        generation: 1,
        table: Some(lift(&dump)),
    };
    let _ = plan(&Ruleset::default(), &seen);
});
