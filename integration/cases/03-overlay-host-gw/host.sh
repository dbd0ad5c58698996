# node-b is a neighbour on eth0, and its pods are routed by it, as flannel does with host-gw.
wire eth0 eth1
ip route add 192.0.2.0/24 dev eth0
ip route add 10.244.2.0/24 via 192.0.2.20 dev eth0 onlink
ip -6 route add 2001:db8:244:2::/64 dev eth0
# By eth1 no peer is reached: that route is not believed.
ip route add 10.244.3.0/24 dev eth1
