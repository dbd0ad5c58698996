//! Hosts that are not nodes of a cluster.

use peerwall_integration::net::{bridge, enslave, wire};
use peerwall_integration::ns::Host;
use peerwall_integration::probe;

use crate::site::Site;

/// Address of the protected host's `eth0`, last byte.
const NUMBER: u8 = 10;

/// A guest of a bridge.
struct Guest {
    name: &'static str,
    bridge: &'static str,
    /// Address with the length of the network.
    address: &'static str,
    gateway: &'static str,
    /// Port on which it answers TCP.
    port: u16,
}

impl Guest {
    fn create(&self, site: &mut Site, host: &Host) -> Host {
        let guest = Host::new(self.name);
        let port = format!("veth-{}", self.name);
        wire(&guest, "eth0", &[self.address], host, &port, &[]);
        enslave(host, &port, self.bridge);
        guest.sh(&format!("ip route add default via {}", self.gateway));
        probe::tcp_server(&guest, &format!("[::]:{}", self.port));
        site.add(guest.clone());
        guest
    }
}

/// Anyone on the LAN can send packets to guests by way of their host.
fn routes(site: &Site, networks: &[&str]) {
    for network in networks {
        let route = format!("ip route add {network} via 192.0.2.{NUMBER}");
        site.host("neighbour").sh(&route);
    }
}

/// Loads lines of iptables-save, after what is loaded.
fn restore(host: &Host, lines: &str) {
    let path = format!("/run/{}-rules", host.name);
    let lines: Vec<&str> = lines.lines().map(str::trim).collect();
    std::fs::write(&path, lines.join("\n") + "\n").expect("/run is writable");
    host.sh(&format!("iptables-nft-restore --noflush {path}"));
}

fn nft(host: &Host, rules: &str) {
    let path = format!("/run/{}-nft", host.name);
    std::fs::write(&path, rules).expect("/run is writable");
    host.sh(&format!("nft -f {path}"));
}

pub(crate) fn plain() -> Site {
    let mut site = Site::new();
    let machine = site.protect("machine", NUMBER, &[22, 80, 443, 9100]);
    site.join("monitoring", 31);
    probe::udp_server(&machine, "0.0.0.0:443");
    let route = format!("ip route add 203.0.113.0/24 via 192.0.2.{NUMBER}");
    site.host("neighbour").sh(&route);
    site
}

pub(crate) fn docker() -> Site {
    let mut site = Site::new();
    // 8080 and 5432 are those of the userland proxy.
    let host = site.protect("docker", NUMBER, &[22, 9100, 8080, 5432]);
    bridge(&host, "docker0", &["172.17.0.1/16"]);
    bridge(&host, "br-0a1b2c3d4e5f", &["172.18.0.1/16"]);
    for (name, bridge, address, gateway, port) in [
        ("shop", "docker0", "172.17.0.2/16", "172.17.0.1", 80),
        (
            "admin-ui",
            "br-0a1b2c3d4e5f",
            "172.18.0.2/16",
            "172.18.0.1",
            9443,
        ),
        (
            "database",
            "br-0a1b2c3d4e5f",
            "172.18.0.3/16",
            "172.18.0.1",
            5432,
        ),
    ] {
        let guest = Guest {
            name,
            bridge,
            address,
            gateway,
            port,
        };
        guest.create(&mut site, &host);
    }
    routes(&site, &["172.17.0.0/16", "172.18.0.0/16"]);
    restore(&host, DOCKER);
    site
}

/// The rules of Docker before 28, which do not close container addresses to the LAN.
const DOCKER: &str = "*nat
    :DOCKER - [0:0]
    -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
    -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
    -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
    -A POSTROUTING -s 172.18.0.0/16 ! -o br-0a1b2c3d4e5f -j MASQUERADE
    -A DOCKER -i docker0 -j RETURN
    -A DOCKER ! -i docker0 -p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
    -A DOCKER ! -i br-0a1b2c3d4e5f -p tcp --dport 9443 -j DNAT --to-destination 172.18.0.2:9443
    -A DOCKER ! -i br-0a1b2c3d4e5f -p tcp --dport 5432 -j DNAT --to-destination 172.18.0.3:5432
    COMMIT
    *filter
    :FORWARD DROP [0:0]
    :DOCKER - [0:0]
    :DOCKER-USER - [0:0]
    -A FORWARD -j DOCKER-USER
    -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    -A FORWARD -o docker0 -j DOCKER
    -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
    -A FORWARD -i docker0 -o docker0 -j ACCEPT
    -A FORWARD -o br-0a1b2c3d4e5f -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    -A FORWARD -o br-0a1b2c3d4e5f -j DOCKER
    -A FORWARD -i br-0a1b2c3d4e5f ! -o br-0a1b2c3d4e5f -j ACCEPT
    -A FORWARD -i br-0a1b2c3d4e5f -o br-0a1b2c3d4e5f -j ACCEPT
    -A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp --dport 80 -j ACCEPT
    -A DOCKER -d 172.18.0.2/32 ! -i br-0a1b2c3d4e5f -o br-0a1b2c3d4e5f -p tcp --dport 9443 -j ACCEPT
    -A DOCKER -d 172.18.0.3/32 ! -i br-0a1b2c3d4e5f -o br-0a1b2c3d4e5f -p tcp --dport 5432 -j ACCEPT
    -A DOCKER-USER -j RETURN
    COMMIT";

pub(crate) fn podman() -> Site {
    let mut site = Site::new();
    // 9443 is that of rootlessport, 53 of aardvark-dns.
    let host = site.protect("podman", NUMBER, &[22, 9100, 9443, 53]);
    probe::udp_server(&host, "0.0.0.0:53");
    bridge(&host, "podman0", &["10.88.0.1/16"]);
    bridge(&host, "podman1", &["10.89.0.1/24"]);
    for (name, bridge, address, gateway, port) in [
        ("web", "podman0", "10.88.0.2/16", "10.88.0.1", 80),
        ("database", "podman1", "10.89.0.2/24", "10.89.0.1", 5432),
        ("backup", "podman1", "10.89.0.3/24", "10.89.0.1", 22),
    ] {
        let guest = Guest {
            name,
            bridge,
            address,
            gateway,
            port,
        };
        guest.create(&mut site, &host);
    }
    routes(&site, &["10.88.0.0/16", "10.89.0.0/24"]);
    nft(&host, NETAVARK);
    site
}

/// The rules of netavark.
const NETAVARK: &str = "table inet netavark {
    chain INPUT {
        type filter hook input priority filter; policy accept;
        ip saddr 10.89.0.0/24 meta l4proto { tcp, udp } th dport 53 accept
    }
    chain FORWARD {
        type filter hook forward priority filter; policy accept;
        ct state invalid drop
        ct mark & 0x1000 == 0x1000 accept
        ip daddr { 10.88.0.0/16, 10.89.0.0/24 } ct state established,related accept
        ip saddr { 10.88.0.0/16, 10.89.0.0/24 } accept
    }
    chain POSTROUTING {
        type nat hook postrouting priority srcnat; policy accept;
        ct mark & 0x2000 == 0x2000 masquerade
        ip saddr 10.88.0.0/16 ip daddr != 10.88.0.0/16 masquerade
        ip saddr 10.89.0.0/24 ip daddr != 10.89.0.0/24 masquerade
    }
    chain PREROUTING {
        type nat hook prerouting priority dstnat; policy accept;
        fib daddr type local jump NETAVARK-HOSTPORT-DNAT
    }
    chain OUTPUT {
        type nat hook output priority -100; policy accept;
        fib daddr type local jump NETAVARK-HOSTPORT-DNAT
    }
    chain NETAVARK-HOSTPORT-DNAT {
        tcp dport 8080 ct mark set ct mark or 0x1000 dnat ip to 10.88.0.2:80
        tcp dport 5432 ct mark set ct mark or 0x1000 dnat ip to 10.89.0.2:5432
    }
}
";

pub(crate) fn lxd_libvirt() -> Site {
    let mut site = Site::new();
    // 80 is that of a proxy device, 53 of dnsmasq.
    let host = site.protect("host", NUMBER, &[22, 80, 8443, 53]);
    for port in [53, 67] {
        probe::udp_server(&host, &format!("0.0.0.0:{port}"));
    }
    bridge(&host, "lxdbr0", &["10.10.10.1/24", "fd42:10:10::1/64"]);
    bridge(&host, "virbr0", &["192.168.122.1/24"]);
    let container = Guest {
        name: "container",
        bridge: "lxdbr0",
        address: "10.10.10.5/24",
        gateway: "10.10.10.1",
        port: 22,
    };
    let container = container.create(&mut site, &host);
    container.sh("ip address add fd42:10:10::5/64 dev eth0 nodad; \
         ip -6 route add default via fd42:10:10::1");
    let vm = Guest {
        name: "vm",
        bridge: "virbr0",
        address: "192.168.122.5/24",
        gateway: "192.168.122.1",
        port: 22,
    };
    vm.create(&mut site, &host);
    routes(&site, &["10.10.10.0/24", "192.168.122.0/24"]);
    nft(&host, LXD);
    restore(&host, LIBVIRT);
    site
}

/// LXD's rules for `lxdbr0`, and for a proxy device with `nat=true`.
const LXD: &str = r#"table inet lxd {
    chain fwd.lxdbr0 {
        type filter hook forward priority 0; policy accept;
        ip version 4 oifname "lxdbr0" accept
        ip version 4 iifname "lxdbr0" accept
        ip6 version 6 oifname "lxdbr0" accept
        ip6 version 6 iifname "lxdbr0" accept
    }
    chain pstrt.lxdbr0 {
        type nat hook postrouting priority 100; policy accept;
        ip saddr 10.10.10.0/24 ip daddr != 10.10.10.0/24 oifname != "lxdbr0" masquerade
        ip6 saddr fd42:10:10::/64 ip6 daddr != fd42:10:10::/64 oifname != "lxdbr0" masquerade
    }
    chain in.lxdbr0 {
        type filter hook input priority 0; policy accept;
        iifname "lxdbr0" tcp dport 53 accept
        iifname "lxdbr0" udp dport { 53, 67, 547 } accept
    }
    chain prert.container.ssh {
        type nat hook prerouting priority -100; policy accept;
        ip daddr 192.0.2.10 tcp dport 2222 dnat ip to 10.10.10.5:22
    }
}
"#;

/// libvirt's rules for `virbr0`, without those that close it to new connections: peerwall has to.
const LIBVIRT: &str = "*nat
    :LIBVIRT_PRT - [0:0]
    -A POSTROUTING -j LIBVIRT_PRT
    -A LIBVIRT_PRT -s 192.168.122.0/24 -d 224.0.0.0/24 -j RETURN
    -A LIBVIRT_PRT -s 192.168.122.0/24 ! -d 192.168.122.0/24 -j MASQUERADE
    COMMIT
    *filter
    :LIBVIRT_INP - [0:0]
    -A INPUT -j LIBVIRT_INP
    -A LIBVIRT_INP -i virbr0 -p udp -m udp --dport 53 -j ACCEPT
    -A LIBVIRT_INP -i virbr0 -p udp -m udp --dport 67 -j ACCEPT
    COMMIT";

/// The mesh: VXLAN between the machines stands in for WireGuard, which this kernel may lack. It is
/// carried by UDP to the same port.
pub(crate) fn wireguard() -> Site {
    let mut site = Site::new();
    let numbers = [NUMBER, NUMBER + 1, NUMBER + 2];
    for (index, number) in (1..).zip(numbers) {
        let machine = site.protect(&format!("node-{index}"), number, &[22, 9100]);
        probe::udp_server(&machine, "0.0.0.0:53");
        machine.sh(&format!(
            "ip link add wg0 type vxlan id 7 dev eth0 local 192.0.2.{number} dstport 51820 && \
             ip link set wg0 up && ip address add 10.8.0.{index}/24 dev wg0"
        ));
        for other in numbers.iter().filter(|other| **other != number) {
            machine.sh(&format!(
                "bridge fdb append 00:00:00:00:00:00 dev wg0 dst 192.0.2.{other}"
            ));
        }
    }
    site.counts("node-1", "192.0.2.10");
    site
}
