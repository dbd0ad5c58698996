# Peers are reached by br-lan, which has other machines' ports, too. The host has no address on br-vm.
bridge br-lan br-vm br-own
ip route add 192.0.2.0/24 dev br-lan
ip route add 172.18.0.0/16 dev br-own
