// Package netns is where an experiment happens: hosts, links and sysctls.
//
// A host is an anonymous network namespace held by a descriptor, so that it
// ends with the process whatever ends the process, and nothing is ever left in
// /run/netns. A link is complete or absent: neighbours are permanent unless
// asked otherwise, offloads are off, addresses are fixed and the carrier is up
// before Connect returns, and all of it has been read back. What the kernel did not take is an error
// that names it; nothing here changes the namespace that the caller lives in.
package netns
