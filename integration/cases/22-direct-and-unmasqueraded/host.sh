# node-b and node-c are neighbours, node-b's pods are routed by it; 192.0.2.40 is no peer.
wire eth0 eth1
ip route add 192.0.2.0/24 dev eth0
ip -6 route add 2001:db8:20::/64 dev eth0
ip route add 10.244.2.0/24 via 192.0.2.20 dev eth0 onlink
ip neighbour replace 192.0.2.20 lladdr 02:00:00:00:00:20 dev eth0 nud permanent
ip -6 neighbour replace 2001:db8:20::30 lladdr 02:00:00:00:00:30 dev eth0 nud permanent
ip neighbour replace 192.0.2.40 lladdr 02:00:00:00:00:40 dev eth0 nud permanent
