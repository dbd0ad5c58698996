# kube-proxy never brings kube-ipvs0 up; its IPv4 addresses are local all the same. There it is a dummy, which not
# every kernel has.
ip link add kube-ipvs0 type bridge
ip address add 10.96.0.1/32 dev kube-ipvs0
ip address add 10.96.0.10/32 dev kube-ipvs0
ip address add 203.0.113.5/32 dev kube-ipvs0
ip address add 2001:db8:96::1/128 dev kube-ipvs0
