// Package capture records packet headers at several hosts at once and
// explains them.
//
// It believes that evidence must be small enough to be read: it counts
// everything it sees, keeps little (the first connections, what surrounds an
// event, what repairs a loss), and says what it left out. One file holds all
// interfaces, merged on one clock, each packet with what it means in words.
// It sees packets only: no payload, no help from the programs, and it enters
// no namespace after a tap is open. It owns no timer; while nothing moves on
// any interface it sleeps.
package capture
