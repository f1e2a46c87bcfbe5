// Package middlebox forwards packets with state, by policies of ours: a
// layer-4 load balancer, a NAT and a flow table.
//
// A policy is pure: time comes in as an argument, packets come in and go out
// as values, and nothing in it opens a socket, so that its test is a table. A
// Box runs one inside a host: it takes frames from the host's interfaces by
// packet rings, rewrites addresses and checksums, and sends them on. It sleeps
// until a frame arrives, a flow falls idle, or a fault is due; it has no timer
// of its own.
//
// Its boxes are what such devices are, down to what goes wrong with them: a
// flow that was forgotten is forgotten without a word, and what happens to the
// next packet of it (nothing, or a RST) is a setting. Only TCP and UDP over
// IPv4 pass; ICMP and fragments do not.
package middlebox
