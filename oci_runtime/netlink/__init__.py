"""Netlink, as far as a pod's network needs it: a codec, a socket, and the route family's objects.

Shared by the host and the guest, standard library only. It stands where pyroute2 could: importing any part of that
costs 70 ms and 14 MiB of private memory per pod on the host, and the guest must not carry it at all.
"""
