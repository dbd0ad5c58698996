//! Lines of words that are recombined by chance.

use peerwall_core::net::addr::Family;

use super::super::Line;

/// Options with their values. Most combinations are lines that iptables accepts or refuses for one
/// word.
const PARTS: &[&str] = &[
    "-s 192.0.2.0/24",
    "-s 192.0.2.7",
    "-d 198.51.100.1",
    "--src 10/8",
    "--destination 10.1/16",
    "-s 192.0.2.1,192.0.2.9",
    "-i eth0",
    "-i eth+",
    "--in-inter lo",
    "-p tcp",
    "-p tcp",
    "-p udp",
    "-p 17",
    "-p icmp",
    "-p esp",
    "--proto tcp",
    "-m tcp",
    "-m udp",
    "-m icmp",
    "--dport 22",
    "--dport ssh",
    "--dport 1000:2000",
    "--sport 53",
    "--destination-port 80",
    "--dpo 443",
    "--syn",
    "--tcp-flags SYN,ACK SYN",
    "--tcp-flags ALL NONE",
    "-m multiport --dports 22,80:90",
    "-m multiport --ports 53",
    "--icmp-type 8",
    "--icmp-type echo-request",
    "--icmp-type 3/1",
    "-m state --state NEW",
    "-m state --state ESTABLISHED,RELATED",
    "-m conntrack --ctstate INVALID",
    "-m conntrack --ctorigdstport 80",
    "-m conntrack --ctproto 6",
    "--ctorigdst 192.0.2.1",
    "-m comment --comment word",
    "-m comment --comment !",
    "-m limit --limit 5/min",
    "--limit-burst 7",
    "-m limit",
    "-m ttl --ttl-gt 60",
    "-m iprange --src-range 10.0.0.1-10.0.0.9",
    "-m addrtype --dst-type LOCAL",
    "-m addrtype --src-type multicast",
    "-m recent --set --name knock",
    "-m recent --rcheck --seconds 60",
    "-m connlimit --connlimit-above 5",
    "-m mark --mark 1",
    "-m mac --mac-source 02:00:00:00:00:01",
    "-m set --match-set known src",
    "-m quota --quota 1000",
    "-f",
    "-c 1 2",
    "!",
    "!",
    "!",
    "stray",
    "-j ACCEPT",
    "-j DROP",
    "-j ACCEPT",
    "-j REJECT",
    "-j REJECT --reject-with tcp-reset",
    "-j LOG --log-prefix word",
    "--log-level 4",
    "--reject-with icmp-host-prohibited",
    "-j own",
    "-g own",
    "-j RETURN",
];

/// A generator of numbers: xorshift64*.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap() % sides
    }
}

/// Returns lines of parts in any order. One in four loses, repeats or moves a word.
pub(crate) fn lines(seed: u64, count: usize) -> Vec<Line> {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let one = |_| {
        let parts = 1 + dice.roll(4);
        let mut words = vec!["-A INPUT"];
        words.extend((0..parts).map(|_| PARTS[dice.roll(PARTS.len())]));
        if dice.roll(2) == 0 {
            words.push("-j ACCEPT");
        }
        let text = words.join(" ");
        let mut words: Vec<&str> = text.split(' ').collect();
        let at = 2 + dice.roll(words.len() - 2);
        match dice.roll(12) {
            0 => drop(words.remove(at)),
            1 => words.insert(at, words[at]),
            2 => words.swap(at, 2),
            _ => {}
        }
        (Family::V4, "filter", words.join(" "))
    };
    let lines: Vec<Line> = (0..count).map(one).collect();
    // Newer iptables refuses `!` after an option, which older ones accept.
    let is_old = |line: &Line| {
        let words: Vec<&str> = line.2.split(' ').collect();
        words
            .windows(2)
            .any(|pair| pair[0].starts_with('-') && pair[1] == "!" && pair[0] != "--comment")
    };
    lines.into_iter().filter(|line| !is_old(line)).collect()
}
