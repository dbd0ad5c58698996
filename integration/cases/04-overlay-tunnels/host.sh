# node-b is on eth0, and pods are routed to both LANs.
wire eth0 eth1
ip route add 192.0.2.0/24 dev eth0
ip route add 10.5.0.0/25 dev eth0
ip route add 10.6.1.0/24 via 192.0.2.20 dev eth0 onlink
ip route add 10.6.2.0/24 dev eth1
ip route add 10.7.1.0/24 dev eth1
ip route add 10.7.2.0/24 dev eth0
