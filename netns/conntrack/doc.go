// Package conntrack reads and changes what the kernel's connection tracking
// knows in one network namespace, by ctnetlink.
//
// It believes the kernel's own table and counters, decoded here, since the
// usual libraries leave out the time that an entry has left or swallow what
// they cannot read: an answer that is cut short is an error, never a smaller
// table. It never polls; when to look is the caller's affair.
package conntrack
