//! No datagram makes the readers of messages, acks and objects panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peerwall_proto::netlink::ack;
use peerwall_proto::rtnetlink::{address, link, neighbour, route};
use peerwall_proto::netlink::message::Datagram;
use peerwall_proto::nf_tables::event;

fuzz_target!(|bytes: &[u8]| {
    for raw in Datagram::new(bytes).flatten() {
        let _ = ack::decode(&raw);
        let _ = (address::decode(&raw), neighbour::decode(&raw), route::decode(&raw));
        if let Ok(Some(link)) = link::decode(&raw) {
            let _ = link
                .vxlan()
                .map(|vxlan| vxlan.map(|v| (v.vni(), v.udp_port(), v.local())));
        }
        if let Ok(message) = raw.nfnetlink() {
            let _ = event::decode(&message);
        }
    }
});
