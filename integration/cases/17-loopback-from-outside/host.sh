# As kube-proxy sets it; without it, Linux drops most of these packets in any case.
wire eth0 wg0
echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet
