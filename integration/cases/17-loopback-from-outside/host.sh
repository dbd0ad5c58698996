# As kube-proxy sets it; without, Linux drops most of these packets by itself.
wire eth0 wg0
echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet
