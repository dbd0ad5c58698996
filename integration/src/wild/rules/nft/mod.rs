//! Files for nft.

mod expressions;
mod sets;

use crate::random::Random;

use expressions::nft_match;
use sets::{set_match, sets};

/// A statement that decides nothing now. Rates are those that these packets never reach.
fn statement(random: &mut Random) -> &'static str {
    random.of(&[
        "counter",
        "log prefix \"x: \"",
        "meta mark set 1",
        "ct mark set 1",
        "add @seen { ip saddr }",
        "update @seen { ip saddr timeout 1m }",
        "limit rate 1000000/second burst 10000 packets",
        "meta priority set 0:1",
        "meta nftrace set 1",
        "meta pkttype set host",
        "ct helper set \"none\"",
        "ip dscp set 10",
        "ip ttl set 64",
        "ip6 hoplimit set 1",
        "tcp dport set 22",
        "ip daddr set 203.0.113.10",
        "tcp option maxseg size set 1200",
        "quota 100 mbytes",
        "quota over 100 mbytes",
        "quota name big",
        "counter name all",
        "limit name quick",
        "dup to 10.1.2.3",
        "last",
        "ct zone set 1",
        "notrack",
        "meta mark set ip saddr map { 10.1.2.3 : 1 }",
        "ct mark set tcp dport map { 22 : 1, 80 : 2 }",
        "counter name ip saddr map { 10.1.2.3 : \"all\" }",
        "meta priority set iifname map { \"eth0\" : 0:1 }",
        "meta mark set tcp option maxseg size",
        "meta mark set socket mark",
    ])
}

/// Makes a file.
pub(super) fn file(random: &mut Random) -> String {
    let policy = |random: &mut Random| if random.chance(75) { "drop" } else { "accept" };
    let family = random.of(&["inet", "inet", "inet", "ip", "ip6"]);
    let mut chains = [String::new(), String::new(), String::new()];
    if random.chance(50) {
        chains[0] += "    iif lo accept\n    ct state established,related accept\n";
    }
    for _ in 0..1 + random.below(6) {
        let at = [0, 0, 0, 1, 1, 2, 2][random.below(7)];
        let count = random.below(4);
        let one = |random: &mut Random| match random.below(10) {
            0 | 1 => set_match(random),
            2 => statement(random).to_owned(),
            _ => nft_match(random, at != 1),
        };
        let matches: Vec<String> = (0..count).map(|_| one(random)).collect();
        let target = match random.below(30) {
            0..10 => "accept",
            10..14 => "drop",
            14 => "reject",
            15..17 => "return",
            17 => "tcp dport vmap { 22 : accept, 80 : drop }",
            18 => "ip saddr vmap { 10.1.2.3 : drop, 10.0.0.0/8 : accept, 0.0.0.0/8 : accept }",
            19 => "ct state vmap { invalid : drop, new : accept }",
            20 => "meta l4proto vmap { icmp : accept, tcp : continue, 47 : accept }",
            _ if at == 2 => "accept",
            21 => "goto user",
            22 | 23 => "ip saddr vmap @sources",
            24 => "meta l4proto . th dport vmap @ports",
            25 => "iifname vmap @ways",
            26 => "limit rate over 1000000/second burst 10000 packets drop",
            27 => "ct count over 1000 drop",
            28 => [
                "queue num 9",
                "queue num 9 bypass",
                "queue flags bypass,fanout to 9-10",
                "reject with tcp reset",
                "reject with icmpx type admin-prohibited",
                "synproxy mss 1460 wscale 7",
                "meta l4proto tcp tproxy to :22",
                "masquerade",
                "continue",
                "add @seen { ip saddr } accept",
                "jump { tcp dport 22 accept; drop; }",
                "ct state vmap { established : accept, related : accept, invalid : drop } accept",
                "tcp flags & (fin | syn) == fin | syn drop",
                "ct status dnat accept",
                "meter m { ip saddr limit rate over 1000000/second burst 10000 packets } drop",
                "ip saddr . tcp dport vmap { 10.1.2.3 . 22 : accept, 10.0.0.0/8 . 20-30 : drop }",
                "ip saddr . udp dport vmap { 10.1.2.3 . 53 : drop, 0.0.0.0/0 . 50-60 : accept }",
                "meta mark set ip saddr map { 10.1.2.3 : 1, 198.51.100.77 : 2 } accept",
            ][random.below(18)],
            _ => "jump user",
        };
        chains[at] += &format!("    {} {target}\n", matches.join(" "));
    }
    // What the lines above drop shows most where much is accepted behind them.
    for chain in &mut chains[..2] {
        if random.chance(35) {
            let some = random.of(&["", "meta l4proto udp", "udp dport 53", "iifname \"eth0\""]);
            *chain += &format!("    {some} accept\n");
        }
    }
    let [input, forward, user] = chains;
    let mut out = format!(
        "table {family} filter {{\n  quota big {{ over 100 mbytes }}\n  counter all {{ }}\n  \
         limit quick {{ rate 1000000/second burst 10000 packets; }}\n{}  chain user {{\n{user}  }}\n",
        sets(random)
    );
    let (first, second) = (policy(random), policy(random));
    out += &format!(
        "  chain input {{\n    type filter hook input priority {}; policy {first};\n{input}  }}\n",
        random.of(&["0", "0", "0", "filter", "-10", "10", "-450"])
    );
    out += &format!(
        "  chain forward {{\n    type filter hook forward priority 0; policy {second};\n{forward}  }}\n"
    );
    if random.chance(15) {
        let (priority, third) = (random.of(&["20", "-5"]), policy(random));
        let one = nft_match(random, true);
        let verdict = random.of(&["accept", "drop"]);
        out += &format!(
            "  chain more {{\n    type filter hook input priority {priority}; policy {third};\n    \
             {one} {verdict}\n  }}\n"
        );
    }
    if random.chance(15) {
        let (one, verdict) = (nft_match(random, true), random.of(&["notrack", "drop"]));
        let then = random.of(&["", "ct state untracked drop", "ct state != invalid drop"]);
        out += &format!(
            "  chain early {{\n    type filter hook prerouting priority -300;\n    {one} {verdict}\n    \
             {then}\n  }}\n"
        );
    }
    if random.chance(15) {
        let (one, verdict) = (nft_match(random, false), random.of(&["accept", "drop"]));
        out += &format!(
            "  chain late {{\n    type filter hook postrouting priority 10;\n    {one} {verdict}\n  }}\n"
        );
    }
    out + "}\n"
}
