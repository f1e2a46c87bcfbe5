// Package wire is what happens to frames between two hosts.
//
// It believes that a wire is arithmetic: what becomes of a frame, and when it
// leaves, is decided once, at its arrival, from its time stamp, the
// configuration and a seed, without a clock and without looking at the far
// end. Letting a frame go at that time is a second and smaller concern. A wire
// drops silently (ICMP comes from routers), never changes a frame except by
// the corruption asked for, and counts everything, so that what it was asked
// to do can be checked against what it did.
//
// Random fates hang off the frame's place in its flow rather than off the
// order in which frames happen to arrive, so that two trials with the same
// seed lose the same bytes even though their flows interleave differently.
package wire
