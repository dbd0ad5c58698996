//! Scripts for sh that call iptables, ip6tables and ipset.

use crate::random::Random;

const MATCHES: [&str; 14] = [
    "-p tcp --dport 22",
    "-p tcp --dport 80",
    "-p tcp -m multiport --dports 80,443",
    "-p udp --dport 53",
    "-p udp --dport 67:68",
    "-p tcp",
    "-p udp",
    "-i eth0",
    "-i eth1 -p tcp",
    "-p 47",
    "-m conntrack --ctstate NEW -p tcp --dport 443",
    "-m state --state ESTABLISHED,RELATED",
    "",
    "! -p tcp",
];
const SOURCES: [&str; 4] = ["10.0.0.0/8", "198.51.100.77", "192.168.1.0/24", "10.1.2.3"];

/// Commands that iptables refuses, unless others came before.
const REFUSED: [&str; 10] = [
    "-N guard",
    "-N INPUT",
    "-P guard ACCEPT",
    "-A INPUT -j later",
    "-N later",
    "-A later -p tcp --dport 22 -j ACCEPT",
    "-X",
    "-X guard",
    "-X later",
    "-A INPUT -j ACCEPT -j DROP",
];
/// Sets, and the dimensions that are asked for.
const SETS: [(&str, &str); 20] = [
    (
        "ipset create a hash:ip\nipset add a 10.1.2.3 comment here",
        "src",
    ),
    (
        "ipset create a hash:ip comment\nipset add a 10.1.2.3 comment \"in it\"",
        "src",
    ),
    ("ipset create a hash:ip\nipset add a 10.0.0.0/8", "src"),
    ("ipset create a hash:net\nipset add a 0.0.0.0/0", "src"),
    (
        "ipset create a hash:ip maxelem 2\nipset add a 10.1.2.0/30",
        "src",
    ),
    (
        "ipset create a bitmap:ip range 10.1.2.0/24\nipset add a 10.1.2.3",
        "src",
    ),
    ("ipset create a hash:ip\nipset add a 10.1.2.3", "src"),
    (
        "ipset create a hash:net\nipset add a 10.0.0.0/8\nipset add a 10.1.0.0/16 nomatch",
        "src",
    ),
    (
        "ipset create a hash:net -exist\nipset -exist add a 198.51.100.64/26",
        "dst",
    ),
    (
        "ipset create a hash:ip,port\nipset add a 10.1.2.3,tcp:22\nipset add a 10.1.2.3,udp:53",
        "src,dst",
    ),
    (
        "ipset create a hash:net,port\nipset add a 10.0.0.0/8,22-80",
        "src,dst",
    ),
    (
        "ipset create a bitmap:port range 0-1023\nipset add a 22\nipset add a 50-60",
        "dst",
    ),
    (
        "ipset create a hash:net,iface\nipset add a 10.0.0.0/8,eth0",
        "src,src",
    ),
    (
        "ipset create a hash:ip timeout 600\nipset add a 198.51.100.77",
        "src",
    ),
    (
        "ipset create b hash:net\nipset add b 10.0.0.0/8\nipset create a list:set\nipset add a b",
        "src",
    ),
    (
        "ipset create a hash:ip netmask 24\nipset add a 198.51.100.1",
        "src",
    ),
    (
        "ipset create a hash:net family inet6\nipset add a 2001:db8:77::/48",
        "src",
    ),
    (
        "ipset create a hash:ip,port,net\nipset add a 10.1.2.3,tcp:22,203.0.113.0/24",
        "src,dst,dst",
    ),
    (
        "ipset create a hash:mac\nipset add a 02:00:00:00:00:fe",
        "src",
    ),
    (
        "ipset restore <<END\ncreate a hash:net\nadd a 10.0.0.0/9\nadd a 0.0.0.0/1\nEND",
        "src",
    ),
];
/// What may happen to them.
const CHANGES: [&str; 9] = [
    "ipset flush a",
    "ipset add a 10.1.2.4",
    "ipset del a 10.1.2.3",
    "ipset del a 10.0.0.0/8 -exist",
    "ipset create c hash:ip; ipset add c 10.9.9.9; ipset swap a c",
    "ipset rename a d",
    "ipset destroy a",
    "ipset add a 192.168.1.0/24 || true",
    "ipset test a 10.1.2.3 && ipset flush a",
];

/// A script in the making, with what its lines may name.
struct Script<'r> {
    random: &'r mut Random,
    /// Whether both variants are called.
    tool: &'static str,
}

impl Script<'_> {
    fn number(&mut self) -> &'static str {
        self.random.of(&["22", "53", "80", "443", "8080"])
    }

    fn matches(&mut self) -> String {
        let one = self.random.of(&MATCHES).to_owned();
        match self.tool == "iptables" && self.random.chance(30) {
            true => format!("{one} -s {}", self.random.of(&SOURCES)),
            false => one,
        }
    }

    fn target(&mut self) -> &'static str {
        self.random.of(&[
            "ACCEPT", "ACCEPT", "ACCEPT", "DROP", "DROP", "REJECT", "RETURN", "LOG",
        ])
    }

    fn tool(&mut self) -> &'static str {
        // Lines with variables are not evaluated, and said to be left: what else is read wrong shows
        // in scripts without them.
        match self.random.below(60) {
            0 => "$IPT",
            1 => "\"$IPT\"",
            2 => "${IPT}",
            _ => self.tool,
        }
    }

    /// One command that changes rules.
    fn command(&mut self) -> String {
        let (tool, matches, target) = (self.tool(), self.matches(), self.target());
        let chain = self
            .random
            .of(&["INPUT", "INPUT", "INPUT", "FORWARD", "guard"]);
        match self.random.below(28) {
            0 => format!("{tool} -I INPUT {matches} -j {target}"),
            1 => format!("{tool} -I INPUT 1 {matches} -j {target}"),
            2 => format!(
                "{tool} -P INPUT {}",
                self.random.of(&["DROP", "ACCEPT", "DROP"])
            ),
            3 => format!("{tool} -D INPUT 1"),
            4 => format!("{tool} -F {}", self.random.of(&["INPUT", "guard", ""])),
            5 => format!("{tool} -A {chain} -j guard"),
            6 => format!("{tool} -R INPUT 1 {matches} -j {target}"),
            7 => format!("{tool} -t filter -A {chain} {matches} -j {target}"),
            8 => format!("{tool} -w -A {chain} {matches} -j {target} 2>/dev/null"),
            9 => format!("{tool} -A {chain} {matches} \\\n  -j {target}"),
            10 => format!(
                "{tool} -A {chain} {matches} -m comment --comment \"a; b && c\" -j {target}"
            ),
            11 => format!("{tool} -A{chain} {matches} -j {target}"),
            12 => format!("{tool} {matches} -j {target} -A {chain}"),
            13 => format!("{tool} -E guard {}", self.random.of(&["kept", "INPUT", ""])),
            14 => {
                let refused = self.random.of(&REFUSED);
                let end = self.random.of(&["", "", " || true"]);
                format!("{tool} {refused}{end}")
            }
            15 => format!(
                "{tool} -A {chain} {matches} -m comment --comment {} -j {target}",
                self.random.of(&["-SPAM-", "-L", "\"-t nat\"", "-A"])
            ),
            _ => format!("{tool} -A {chain} {matches} -j {target}"),
        }
    }

    /// One command of ipset, and one that asks for a set.
    fn set(&mut self) -> String {
        let (tool, target) = (self.tool(), self.target());
        let matches = self.matches();
        let (command, flags) = SETS[self.random.below(SETS.len())];
        let bang = if self.random.chance(15) { "! " } else { "" };
        let asked =
            format!("{tool} -A INPUT {matches} -m set {bang}--match-set a {flags} -j {target}");
        let change = self.random.of(&CHANGES);
        match self.random.below(3) {
            0 => format!("{command}\n{asked}"),
            1 => format!("{command}\n{change}\n{asked}"),
            _ => format!("{command}\n{asked}\n{change}"),
        }
    }

    /// A test that is true or false, and simple or not.
    fn condition(&mut self) -> String {
        self.random
            .of(&[
                "true",
                "false",
                "[ \"$MODE\" = strict ]",
                "[ -n \"$MODE\" ]",
                "[ -z \"$NOTHING\" ]",
                "test -f /nowhere/at/all",
                "! test -f /nowhere/at/all",
                "[ $PORT -gt 100 ]",
                "command -v no-such-tool >/dev/null",
                "echo strict | grep -q \"$MODE\"",
                "ip link show eth0 >/dev/null",
                ":",
            ])
            .to_owned()
    }

    /// A statement of sh.
    fn statement(&mut self, depth: usize) -> String {
        if self.random.chance(8) {
            return self.set();
        }
        if depth == 0 || self.random.chance(50) {
            return self.command();
        }
        let deeper = depth - 1;
        let (one, two) = (self.statement(deeper), self.statement(deeper));
        let condition = self.condition();
        let tool = self.tool;
        let (number, target, matches) = (self.number(), self.target(), self.matches());
        let kinds = if self.random.chance(30) { 50 } else { 28 };
        match self.random.below(kinds) {
            0 | 1 => format!("if {condition}; then\n{one}\nelse\n{two}\nfi"),
            2 => format!("if {condition}; then {one}; fi"),
            3 => format!("{condition} && {one}"),
            4 => format!("{condition} || {one}"),
            5 => format!("{one} && {two}"),
            6 => format!("{one} || {two}"),
            7 => format!("open() {{\n{one}\n}}\nopen"),
            8 => format!("never() {{\n{one}\n}}"),
            9 => format!("maybe() {{ {condition} || return 0; {one}; }}\nmaybe"),
            10 => format!("case \"$MODE\" in\nstrict) {one} ;;\n*) {two} ;;\nesac"),
            11 => format!("case $PORT in 2*) {one};; 8*|9*) {two};; esac"),
            12 => format!("{condition} && exit 0\n{one}"),
            13 => format!(
                "{tool}-restore -n <<END\n*filter\n-A INPUT {matches} -j {target}\nCOMMIT\nEND"
            ),
            14 => format!(
                "{tool}-restore <<'END'\n*filter\n:INPUT DROP [0:0]\n:guard - [0:0]\n\
                 -A INPUT {matches} -j {target}\nCOMMIT\nEND"
            ),
            15 => format!(
                "printf '*filter\\n-A INPUT {matches} -j {target}\\nCOMMIT\\n' | \
                 {tool}-restore --noflush"
            ),
            16 => format!("( {one} )"),
            17 => format!("{{ {one}; {two}; }}"),
            18 => format!("eval \"{tool} -A INPUT {matches} -j {target}\""),
            19 => format!(
                "{tool} -C INPUT {matches} -j {target} 2>/dev/null || \
                 {tool} -A INPUT {matches} -j {target}"
            ),
            20 => format!("{one} &\nwait"),
            21 => format!("until {one}; do break; done"),
            23 => format!("{condition} && (\n{one}\n)\n{two}"),
            24 => format!("{condition} || ( cd /\n{one}\n{two}\n) 2>/dev/null"),
            25 => format!("open() (\n{one}\n)\n{condition} && open"),
            26 => format!("(\n{one}\n{two}\n)"),
            27 => format!("N=$((1<<2))\n{one}"),
            22 => format!("cat <<END >/dev/null\n{one}\nEND\n{two}"),
            40 => format!(
                "cat >/dev/null <<A; {tool}-restore -n <<B\n{one}\nA\n*filter\n\
                 -A INPUT {matches} -j {target}\nCOMMIT\nB"
            ),
            41 => format!(
                "{tool}-restore -n <<-END\n\t*filter\n\t-A INPUT {matches} -j {target}\n\
                 \tCOMMIT\n\tEND"
            ),
            42 => format!(
                "{tool}-restore -n <<END\n  *filter\n-A INPUT {matches} -j {target}\nCOMMIT\nEND"
            ),
            43 => format!(
                "{tool}-restore -n <<END\n*filter\n-A INPUT {matches} -j {target}\n\
                 -A INPUT -j NOWHERE\nCOMMIT\nEND"
            ),
            28 => format!(
                "for port in {number} 8443; do\n\
                 {tool} -A INPUT -p tcp --dport $port -j {target}\ndone"
            ),
            29 => format!(
                "for port in $PORT $NOTHING; do \
                 {tool} -A INPUT -p tcp --dport \"$port\" -j {target}; done"
            ),
            30 => format!(
                "open() {{\n{tool} -A INPUT -p tcp --dport \"$1\" -j {target}\n}}\nopen {number}"
            ),
            31 => format!("rule() {{ {tool} \"$@\"; }}\nrule -A INPUT {matches} -j {target}"),
            32 => format!(
                "while read port; do {tool} -A INPUT -p tcp --dport $port -j {target}; \
                 done <<END\n{number}\n8443\nEND"
            ),
            33 => {
                format!("PORT=$(echo {number})\n{tool} -A INPUT -p tcp --dport $PORT -j {target}")
            }
            34 => format!("{tool} -A INPUT -p tcp --dport $(({number} + 1)) -j {target}"),
            35 => format!("{tool} -A INPUT -p tcp --dport ${{OTHER:-{number}}} -j {target}"),
            36 => format!("MODE={}\n{one}", self.random.of(&["strict", "open", "''"])),
            37 => format!(
                "set -- {number} 8443\n{tool} -A INPUT -p tcp --dport $2 -j {target}\nshift\n\
                 {tool} -A INPUT -p tcp --dport $1 -j {target}"
            ),
            38 => format!("OPTS=\"{matches}\"\n{tool} -A INPUT $OPTS -j {target}"),
            39 => format!(
                "i=0; while [ $i -lt 2 ]; do \
                 {tool} -A INPUT -p tcp --dport $((8000 + i)) -j {target}; i=$((i + 1)); done"
            ),
            _ => format!("{one}\n# {tool} -F INPUT\n{two}"),
        }
    }
}

/// Makes a file.
pub(super) fn file(random: &mut Random) -> String {
    let tool = random.of(&["iptables", "iptables", "ip6tables"]);
    let tool = if tool == "iptables" {
        "iptables"
    } else {
        "ip6tables"
    };
    let mut out = random
        .of(&["#!/bin/sh\n", "#!/bin/bash\n", "#!/bin/sh -e\n"])
        .to_owned();
    if random.chance(20) {
        out += "set -e\n";
    }
    let mode = random.of(&["strict", "open"]);
    out += &format!(
        "IPT={tool}\nMODE={mode} PORT={}\n",
        random.of(&["22", "80"])
    );
    out += &format!("{tool} -N guard\n");
    for chain in ["INPUT", "FORWARD"] {
        let policy = random.of(&["DROP", "DROP", "ACCEPT"]);
        out += &format!("{tool} -P {chain} {policy}\n");
    }
    let mut script = Script { random, tool };
    for _ in 0..1 + script.random.below(4) {
        out += &script.statement(2);
        out += "\n";
    }
    if script.random.chance(40) {
        out += &format!("{tool} -A INPUT -p udp -j ACCEPT\n");
    }
    out
}
